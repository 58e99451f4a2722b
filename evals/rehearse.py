"""Run a script where `remote="local"` is as strict as a server: python rehearse.py LOG WEIGHTS script.py [argument …]

Its blocks are serialised and run where lens_recipes, plotly and others cannot be imported, with the WEIGHTS (a saved
state dict) of a model of which the script has only the shape, and only what they save comes back. LOG then holds how
many blocks were run so, and how many bytes of tensors came back.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import pytest
import strict_local
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend

NOT_THERE = ("lens_recipes", "jaxtyping", "plotly", "platformdirs", "rich", "tqdm", "typer")


def size(value: Any) -> int:
    """Bytes of the tensors and arrays in a value."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0


@contextmanager
def with_weights(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside, the module has these weights; afterwards its own again."""
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(weights)
    try:
        yield
    finally:
        module.load_state_dict(own)


def main() -> None:
    log, weights, script = Path(sys.argv[1]), torch.load(sys.argv[2]), sys.argv[3]
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
        strict = LocalSimulationBackend.__call__

        def on_server(backend: Any, tracer: Any) -> None:
            with with_weights(backend.model._module, weights):
                strict(backend, tracer)

        patch.setattr(LocalSimulationBackend, "__call__", on_server)
        sys.argv, sys.path[0] = sys.argv[3:], str(Path(script).parent)  # as python sets them
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
