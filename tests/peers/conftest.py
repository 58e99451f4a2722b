"""Run a script in the environment of other tools, which `make test-peers` has installed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / ".venv-peers" / "bin" / "python"
LONGEST = 300  # seconds


@pytest.fixture(scope="session")
def run_peer():
    """Call a script of this folder there: `run_peer(script, task)` gives what it returned for a task."""

    def run(script, task, folder):
        torch.save(task, folder / "task.pt")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        environment.pop("PYTHONPATH", None)
        ended = subprocess.run(
            [str(PEERS), str(HERE / script), str(folder / "task.pt"), str(folder / "answer.pt")],
            capture_output=True,
            text=True,
            timeout=LONGEST,
            env=environment,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        return torch.load(folder / "answer.pt", weights_only=True)

    return run
