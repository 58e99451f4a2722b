"""What runs on a server around a recipe: check the model, run the batches, pack the arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

# Begins what the functions of this file, and the recipes' traced functions, raise on a server.
OWN_ERROR = "lens-recipes: "


class ModelFacts(NamedTuple):
    """What must be the same of the client's model and the server's; None where it is not known."""

    layers: int
    vocabulary: int | None
    width: int | None
    revision: str | None


def model_facts(model: Any, blocks: str) -> ModelFacts:
    """Return the facts of a model whose blocks are the children of the module at this path."""
    module = model._module
    config = getattr(module, "config", None)
    text_config = None
    if config is not None:
        text_config = config.get_text_config(decoder=True)
    return ModelFacts(
        layers=len(list(model.get(blocks)._module.children())),
        vocabulary=getattr(text_config, "vocab_size", None),
        width=getattr(text_config, "hidden_size", None),
        revision=getattr(config, "_commit_hash", None),
    )


def check_same_model(model: Any, blocks: str, expected: ModelFacts) -> None:
    """Check, before anything is computed, that the server holds the client's model.

    nnsight would not notice another one.

    Raises:
        ValueError: with each fact that differs, where both sides know it.
    """
    actual = model_facts(model, blocks)
    differences = []
    for fact, here, there in zip(ModelFacts._fields, expected, actual, strict=True):
        if here is not None and there is not None and here != there:
            differences.append(f"{fact} {there} there, {here} here")
    if differences:
        raise ValueError(
            f"{OWN_ERROR}the server's model is not the one that is known here: "
            f"{'; '.join(differences)}. Load the revision that the server holds, "
            "load(hub_id, revision=…, remote=…), or ask those who run the server for this one."
        )


def run_batches(
    model: Any, traced: Any, plan: Any, batches: list[Any], digests: list[str]
) -> list[dict[str, Any]]:
    """Run a recipe's traced function on each batch, and return what it gave in plain values.

    Each result carries the digest of its batch under "of", so that a client never takes the result
    of one batch for that of another. "layout" and "bytes" are those of `pack_arrays`.
    """
    results = []
    for batch, digest in zip(batches, digests, strict=True):
        arrays = traced(model, plan, batch)
        results.append({"of": digest, **pack_arrays(arrays)})
    return results


def pack_arrays(arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arrays as one tensor of bytes, array after array, with the layout to unpack it.

    An array's bytes lie in planes: the first byte of every number, then the second of every number,
    and so on, as the rows of [byte, number].
    Signs and exponents then lie side by side and compress well; the bytes of whole floats do not.

    Returns:
        "layout": [name, dtype, shape] of each array; "bytes": a `uint8` tensor `[byte]`.
    """
    layout = []
    planes = []
    for array_name, array in arrays.items():
        # A copy, because a view as bytes needs strides of its own: an expanded array has some of 0.
        numbers = array.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        by_number = numbers.view(torch.uint8).reshape(len(numbers), numbers.element_size())
        layout.append([array_name, str(array.dtype).removeprefix("torch."), list(array.shape)])
        planes.append(by_number.T.reshape(-1))
    return {"layout": layout, "bytes": torch.cat(planes)}
