"""Run recipes on a device that is not there, and print as JSON how often the host waits for it, and what came of it.

A process of its own: `python tests/waits_of_recipes.py`; `test_waits.py` reads what it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import far_device
import numpy as np
import tiny
import torch
from far_device import FAR, Far, FarDevice

import lens_recipes as lr
from lens_recipes.models.structure.head_path import without_devices
from lens_recipes.run.request.kernels import with_kernels
from lens_recipes.trace import kernels
from lens_recipes.trace.kernels import CUDA, PROCESSOR
from lens_recipes.trace.lens_head import LOGITS_AT_ONCE, whole_tiles
from lens_recipes.trace.plan import SiteRead
from lens_recipes.trace.readout.readout import ReadoutOptions, readout

TARGET, RIVAL = 7, 9
SHORT, LONG = 8, 48
# Recipe, a family, and options. Llama has one norm before each sublayer, Gemma 2 two around it, OLMo 2 one after it.
RECIPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lens": ("logit_lens", "llama", {"targets": [TARGET]}),
    "lens, three tracked": ("logit_lens", "gemma2", {"track": 3}),
    "components": ("logit_lens", "olmo2", {"components": ["attn_out", "resid_mid", "mlp_out"]}),
    "heads": ("logit_lens", "gemma2", {"components": "head_out"}),
    "ablation of all layers": (
        "logit_lens", "llama", {"edits": lr.ablate(component="attn_out"), "controls": 0},
    ),
    "attribution by head": (
        "attribution", "olmo2", {"unit": "head", "positions": None, "max_bytes": 2**16},
    ),
    "attribution by token": (
        "attribution", "gemma2", {"unit": "token", "positions": slice(2, None, 2)},
    ),
}  # fmt: skip


def shortened(family: str, n_layers: int) -> Any:
    """A small model with its first layers alone."""
    module = tiny.FAMILIES[family]()
    module.set_attn_implementation("eager")
    module.model.layers = module.model.layers[:n_layers]
    module.config.num_hidden_layers = n_layers
    if getattr(module.config, "layer_types", None):
        module.config.layer_types = module.config.layer_types[:n_layers]
    return module


def prepared(recipe: str, model: Any, n_tokens: int, options: dict[str, Any]) -> Any:
    """A run that is ready, in which no operation names the processor as its device."""
    prompt = [10 + token % 80 for token in range(n_tokens)]
    more = {"targets": TARGET, "against": RIVAL} if recipe == "attribution" else {}
    run = getattr(lr, recipe).prepare(model, [prompt], **more, **options)
    run.plan = run.plan._replace(head_operations=without_devices(run.plan.head_operations))
    run.local["weight"] = None  # the module is called, as on any accelerator
    return run


def on_both(
    family: str, recipe: str, options: dict[str, Any], n_layers: int = 4, n_tokens: int = SHORT,
    chosen: kernels.Kernels = CUDA,
) -> dict[str, Any]:  # fmt: skip
    """How often the host waits, and the largest difference to what the processor gives."""
    module = shortened(family, n_layers)
    model = lr.load(module)
    run = prepared(recipe, model, n_tokens, options)
    expected = [run.traced(model, run.plan, batch, **run.local) for batch in run.batches]
    with with_kernels(chosen):
        run = prepared(recipe, model, n_tokens, options)
    with FarDevice():
        far_device.send(module)
        far_device.forget()
        found = [run.traced(model, run.plan, batch, **run.local) for batch in run.batches]
    return {
        "waits": sum(far_device.waits.values()),
        "lines": dict(far_device.lines),
        "difference": max(
            largest_difference(one, other) for one, other in zip(expected, found, strict=True)
        ),
    }


def largest_difference(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> float:
    """Of all arrays, which must be here and of the same shapes; two NaN are alike."""
    assert expected.keys() == found.keys()
    largest = 0.0
    for name, value in expected.items():
        assert not isinstance(found[name], Far), name
        assert found[name].dtype == value.dtype
        ours = np.nan_to_num(found[name].double().numpy(), nan=-77.0)
        theirs = np.nan_to_num(value.double().numpy(), nan=-77.0)
        assert ours.shape == theirs.shape, name
        if ours.size:
            largest = max(largest, float(abs(ours - theirs).max()))
    return largest


def recipes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each recipe with more of one thing at a time."""
    small = CUDA._replace(tile_columns=64, rows_at_once=16)
    for name, (recipe, family, options) in RECIPES.items():
        given = (family, recipe, options)
        yield (
            name,
            {
                "base": on_both(*given, n_layers=2),
                "more layers": on_both(*given, n_layers=4),
                "more tokens": on_both(*given, n_layers=2, n_tokens=LONG),
                "more tiles and chunks": on_both(*given, n_layers=2, n_tokens=LONG, chosen=small),
            },
        )


def steps_of_generation() -> dict[str, list[int]]:
    """How often the host waits in each further step of a text, by the number of layers."""
    torch.accelerator.synchronize = lambda device=None: far_device.note("synchronized")
    seen = {}
    for n_layers in (2, 4):
        totals = []
        for n_steps in (3, 4, 5):
            module = shortened("llama", n_layers)
            run = lr.generate_lens.prepare(
                lr.load(module), [[10, 11, 12, 13]], max_new_tokens=n_steps, do_sample=False
            )
            tail = without_devices(run.plan.head_operations)
            run.plan = run.plan._replace(head_operations=tail)
            with FarDevice():
                far_device.send(module)
                far_device.forget()
                run.run_here(run)
            totals.append(sum(far_device.waits.values()))
        seen[str(n_layers)] = [totals[1] - totals[0], totals[2] - totals[1]]
    return seen


class Head:
    """What `readout` needs of a `LensHead`: one product, after which some tokens cannot be said."""

    logits_at_once = LOGITS_AT_ONCE

    def __init__(self, matrix: torch.Tensor, impossible: torch.Tensor) -> None:
        self.matrix = matrix
        self.impossible = impossible

    def tiles(self, rows, apply_norm):
        return whole_tiles((rows @ self.matrix).masked_fill(self.impossible, -torch.inf))


def ruled_out() -> dict[str, Any]:
    """The readout where some tokens have no chance at all, here and there."""
    generator = torch.Generator().manual_seed(0)
    streams = [torch.randn(5, 8, generator=generator) for _ in range(3)]
    matrix = torch.randn(8, 200, generator=generator)
    impossible = torch.arange(200) % 7 == 3
    own = (streams[-1] @ matrix).masked_fill(impossible, -torch.inf)[None]
    places = (torch.zeros(5, dtype=torch.long), torch.arange(5))
    requested = torch.tensor([[4, 3]] * 5)
    reads = [SiteRead(slot) for slot in range(3)]

    def read(send, chosen):
        options = ReadoutOptions(3, 4, "top1", 32, 2**30, chosen)
        head = Head(send(matrix), send(impossible))
        rows = [send(stream) for stream in streams]
        return readout(rows, reads, head, send(own), places, requested, options)

    expected = read(lambda value: value, PROCESSOR)
    assert not expected["entropy"].isnan().any()
    with FarDevice():
        far_device.forget()
        found = read(Far, CUDA._replace(tile_columns=64, rows_at_once=4))
    return {
        "waits": sum(far_device.waits.values()),
        "difference": largest_difference(expected, found),
    }


def main() -> None:
    """Print everything."""
    torch.set_num_threads(1)
    kernels.ACCELERATOR = CUDA  # the far device is as one of CUDA
    assert kernels.kernels_for(FAR) is CUDA
    with contextlib.redirect_stdout(sys.stderr):
        found = {
            "recipes": dict(recipes()),
            "steps": steps_of_generation(),
            "ruled out": ruled_out(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
