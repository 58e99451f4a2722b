"""Run a script where `remote="local"` is as strict as a server: python rehearse.py LOG script.py [argument …]

Its blocks are serialised and run where lens_recipes, plotly and others cannot be imported, and only what they save
comes back. LOG then holds how many blocks were run so, and how many bytes of tensors came back.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import pytest
import strict_local
import torch

NOT_THERE = ("lens_recipes", "jaxtyping", "plotly", "platformdirs", "rich", "tqdm", "typer")


def size(value: Any) -> int:
    """Bytes of the tensors and arrays in a value."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


def main() -> None:
    log, script = Path(sys.argv[1]), sys.argv[2]
    found = {"blocks": 0, "bytes": 0}
    push = strict_local.push

    def counted(frame: Any, saved: dict[str, Any]) -> None:
        found["blocks"] += 1
        found["bytes"] += size(saved)
        log.write_text(json.dumps(found))
        push(frame, saved)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_local, "push", counted)
        strict_local.install(patch, *NOT_THERE)
        sys.argv = sys.argv[2:]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
