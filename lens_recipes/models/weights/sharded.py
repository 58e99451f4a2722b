"""Weights of which each process holds a part, as tensor parallelism leaves them: they are refused.

Seen with nnsight 0.8.1, transformers 5.23 and two processes: nnsight cannot load such a model, and
one that transformers has loaded no longer runs once nnsight has wrapped it, as what its modules
exchange with the other process is put around their forward and lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from lens_recipes.errors import LensError

# Arguments of `from_pretrained` that ask for it.
ASKING = ("tp_plan", "tp_size", "distributed_config")

INSTEAD = (
    'Load it in one process: over several devices (device_map="auto"), in half precision '
    "(dtype=torch.bfloat16), or on a server (remote=True)"
)


def refuse_sharding(arguments: Mapping[str, Any]) -> None:
    """Refuse to load a model whose weights would be shared out to several processes.

    In one process these arguments change nothing.

    Raises:
        LensError: there are several.
    """
    asked = [name for name in ASKING if arguments.get(name) is not None]
    n_processes = os.environ.get("WORLD_SIZE", "1")
    if asked and n_processes.isdecimal() and int(n_processes) > 1:
        raise LensError(
            f"{asked[0]} shares the weights out to {n_processes} processes (tensor parallelism), "
            f"and nnsight 0.8 cannot trace a model of which each holds a part. {INSTEAD}."
        )


def refuse_sharded(module: nn.Module) -> None:
    """Refuse a module that holds parts of weights.

    Raises:
        LensError: some of its parameters are torch's DTensor.
    """
    for name, parameter in module.named_parameters():
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is None or not hasattr(parameter, "placements"):
            continue
        processes = "1 process" if mesh.size() == 1 else f"{mesh.size()} processes"
        raise LensError(
            f"{name!r} of this {type(module).__name__} is a DTensor, shared out to "
            f"{processes} (tensor parallelism, FSDP), and nnsight 0.8 cannot trace a "
            f"model of which each holds a part. {INSTEAD}."
        )
