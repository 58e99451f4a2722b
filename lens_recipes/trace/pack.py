"""What runs on a server around a recipe's block: check the model, run the batches, pack the arrays."""

from __future__ import annotations

from typing import Any

import torch

OWN_ERROR = (
    "lens-recipes: "  # begins what the functions below, and the recipes' blocks, raise there
)


# -- on the server -----------------------------------------------------


def pack_arrays(arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Arrays as one tensor of bytes: first of every number its first byte, then its second.

    Signs and exponents then lie side by side and compress well, which the bytes of whole floats do not.
    """
    layout, planes = [], []
    for name, array in arrays.items():
        flat = (
            array.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        )  # strides of 0, too
        layout.append([name, str(array.dtype).removeprefix("torch."), list(array.shape)])
        planes.append(flat.view(torch.uint8).reshape(len(flat), flat.element_size()).T.reshape(-1))
    return {"layout": layout, "bytes": torch.cat(planes)}


def model_facts(model: Any, blocks: str) -> dict[str, Any]:
    """What must be the same here and there."""
    module = model._module
    config = getattr(module, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    return {
        "layers": len(list(model.get(blocks)._module.children())),
        "vocabulary": getattr(text, "vocab_size", None),
        "width": getattr(text, "hidden_size", None),
        "revision": getattr(config, "_commit_hash", None),
    }


def check_same_model(model: Any, blocks: str, expected: dict[str, Any]) -> None:
    """Stop before anything is computed if the server holds another model: nnsight would not notice."""
    there = model_facts(model, blocks)
    wrong = [
        f"{name} {there[name]} there, {here} here"
        for name, here in expected.items()
        if None not in (here, there[name]) and here != there[name]
    ]
    if wrong:
        raise ValueError(
            f"lens-recipes: the server's model is not the one that is known here: {'; '.join(wrong)}. Load the "
            "revision that the server holds, load(hub_id, revision=…, remote=…), or ask those who run it for this one."
        )


def run_batches(
    model: Any, block: Any, shared: dict[str, Any], batches: list[dict[str, Any]], marks: list[str]
) -> list[dict[str, Any]]:
    return [
        {"of": mark, **pack_arrays(block(model, shared, one))}
        for one, mark in zip(batches, marks, strict=True)
    ]
