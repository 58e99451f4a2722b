"""`decode_vectors()`: any vector of the stream, through the model's own norm and unembedding.

A steering vector, an SAE decoder row (Bricken et al. 2023 read features so), a head's output direction, a cached
activation: the readout is that of the lens, without a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import nnsight
import numpy as np
import torch
from jaxtyping import Float
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.axes import Site, Tokens
from lens_recipes.models.handle import dtype_of, exclusive, resolve_remote, tokenizer_of
from lens_recipes.models.structure.anatomy import anatomy, head_operations_for, plain_head
from lens_recipes.models.vocabulary import token_texts
from lens_recipes.results import LensResult
from lens_recipes.run.prompts import as_list, check_numbers, target_ids
from lens_recipes.run.provenance import provenance
from lens_recipes.run.recipe import recipe
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import lens_schema
from lens_recipes.trace.lens_head import COPIES, unembed
from lens_recipes.trace.operations import first_of
from lens_recipes.trace.readout import readout

NO_RUN = "vectors are decoded without a run, so there are no logits of the model to compare with"


@recipe(narrow="Pass fewer vectors at once, or a smaller top_k")
def decode_vectors(
    model: Envoy,
    vectors: Any,
    names: str | Sequence[str] | None = None,
    *,
    targets: Any = None,
    top_k: int = 5,
    apply_norm: bool = True,
    max_bytes: int = 256 * 2**20,
    remote: bool | str | None = None,
) -> RecipeRun[LensResult]:
    """What a vector of the residual stream would say if it were the last block's output.

    The final norm divides by the vector's own size, so only its direction counts: a vector and twice the vector say
    the same, and a small one is not less sure. −v is another question than v. (The norm's epsilon bounds this: what is
    so small that its mean square is near that, often 1e-5, fades towards the zero vector, which says what the biases of
    norm and unembedding say, and where there are none all tokens alike.)

    Args:
        model: What `load()` returns.
        vectors: One vector `[d_model]` or several `[vector, d_model]`: a tensor, an array, lists of numbers, or a list
            of vectors. They are read in the precision of the model's weights.
        names: What to call each of them; None for "vector 0", "vector 1", …
        targets: Tokens to follow, as strings or ids.
        top_k: How many of the most likely tokens to keep.
        apply_norm: False leaves out the final norm: then logits are linear in the vector, and its size counts.
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: As for `logit_lens`.

    Returns:
        A `LensResult` with the one site `Site(None, "vector")` and one entry per vector on the token axis, its name as
        the token's text. What needs a run is NaN, or −1 for ids and ranks: `kl_to_final`, `next_*`, `final_*`. There is
        no certificate: `provenance["certificate"]` says why.

    Raises:
        ValueError: vectors that are not `d_model` wide, not finite in the model's precision, or not as many as their
            names; a target that is not one token.

    Example:
        >>> neuron = model._module.model.layers[29].mlp.down_proj.weight[:, 7]  # what it writes to the stream
        >>> print(decode_vectors(model, [neuron, -neuron], ["when it fires", "when it is negative"]))
    """
    started = time.perf_counter()
    targets = as_list(targets)
    where = resolve_remote(model, remote)
    with exclusive(model):
        parts, tokenizer = anatomy(model), tokenizer_of(model)
        check_numbers(top_k, None, max_bytes, parts.vocab_size)
        rows = _rows(vectors, parts.d_model, dtype_of(model))
        labels = _names(names, len(rows))
        wanted = target_ids(targets, 1, tokenizer, parts.vocab_size)[0]
    arguments = {
        "names": labels,
        "targets": targets,
        "top_k": top_k,
        "apply_norm": apply_norm,
        "max_bytes": max_bytes,
    }
    options: dict[str, Any] = {
        "n_sites": 1,
        "top_k": top_k,
        "track": None,
        "max_tracked": 1,
        "max_bytes": max_bytes,
    }
    batch = {"rows": rows, "wanted": torch.tensor([wanted] * len(rows))}
    shared = {
        "vocab_size": parts.vocab_size, "tail": head_operations_for(parts, where), "options": options, "norm": apply_norm,
        "last": f"{parts.blocks}.{parts.n_layers - 1}", "one": torch.tensor([parts.plain_ids[:1]]),
    }  # fmt: skip

    def finish(found: list[Arrays]) -> LensResult:
        seconds = time.perf_counter() - started
        record = provenance(model, "decode_vectors", arguments, parts.vocab_size, where, seconds)
        return _result(found[0], labels, wanted, tokenizer, {**record, "certificate": NO_RUN})

    def here() -> list[Arrays]:
        like = torch.empty(0, dtype=rows.dtype, device=next(model._module.parameters()).device)
        with torch.inference_mode():
            numbers = decode(model, shared, batch, like, plain_head(model, parts))
        return [{name: value.numpy() for name, value in numbers.items()}]

    return RecipeRun(
        model=model,
        recipe="decode_vectors",
        remote=where,
        anatomy=parts,
        block=decode_there,
        shared=shared,
        batches=[batch],
        schemas=[lens_schema(options, [], len(rows), len(wanted))],
        finish=finish,
        arguments={"vectors": rows.tolist(), **arguments},
        here=here,
    )


def decode(
    model: Any, shared: dict[str, Any], batch: dict[str, Any], like: Tensor, weight: Any
) -> dict[str, Tensor]:
    """The readout of vectors, where and as precise as `like`; what the model's own logits would give is left out."""
    rows = batch["rows"]
    at = torch.zeros(2, len(rows), dtype=torch.long)
    return readout(
        [partial(_like, rows, like)],
        [(0, shared["norm"])],
        partial(unembed, model, shared["tail"], weight, {}),
        torch.zeros(1, 1, shared["vocab_size"]),
        (at[0], at[1]),
        batch["wanted"],
        **shared["options"],
        copies=COPIES if weight is None else 1,
    )


def decode_there(model: Any, shared: dict[str, Any], batch: dict[str, Any]) -> dict[str, Tensor]:
    """The same on a server, in a run of one token: vectors go where the last block's output is."""
    with torch.inference_mode(), model.trace(input_ids=shared["one"]):
        like = first_of(model.get(shared["last"]).output)
        numbers = nnsight.save(decode(model, shared, batch, like, None))
    return numbers  # noqa: RET504 - a block does not return


def _like(rows: Tensor, other: Tensor, here: slice) -> Tensor:
    return rows[here].to(other)


def _rows(vectors: Any, width: int, dtype: torch.dtype) -> Float[Tensor, "vector d_model"]:
    """The vectors on the CPU, in the precision of the model's weights."""
    rows = _as_tensor(vectors)
    if rows.is_complex() or rows.is_meta:
        what = (
            "complex numbers"
            if rows.is_complex()
            else "a tensor without numbers (it is on the meta device)"
        )
        raise ValueError(f"received {what} as vectors; accepted are real numbers.")
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[-1] != width or not len(rows):
        raise ValueError(
            f"received vectors of shape {list(rows.shape)}; this model's stream is {width} wide: pass [{width}] or "
            f"[vector, {width}]."
        )
    rows = rows.cpu()
    if not rows.isfinite().all():
        raise ValueError(
            "the vectors hold NaN or infinite numbers: nothing can be read from those."
        )
    rows = rows.to(dtype)
    if not rows.isfinite().all():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"the vectors hold numbers too large for {name}, the precision of this model's weights."
        )
    return rows.clone()  # a slice of a weight would travel with the whole of it


def _as_tensor(vectors: Any) -> Tensor:
    try:
        vectors = as_list(vectors)
        if (
            isinstance(vectors, list | tuple)
            and vectors
            and all(isinstance(v, Tensor) for v in vectors)
        ):
            return torch.stack([v.detach().cpu() for v in vectors])
        if not isinstance(vectors, Tensor):
            array = np.asarray(vectors)
            kind = (
                np.dtype(np.float64)
                if array.dtype == np.longdouble
                else array.dtype.newbyteorder("=")
            )
            return torch.from_numpy(
                np.array(array, dtype=kind, order="C")
            )  # a copy, of what any strides or lock show
        vectors = vectors.detach()
        return vectors if vectors.layout == torch.strided else vectors.to_dense()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"received {type(vectors).__name__} as vectors; accepted are a tensor, an array or lists of numbers, "
            "each vector of one width."
        ) from None


def _names(names: Any, n: int) -> list[str]:
    if names is None:
        return [f"vector {i}" for i in range(n)]
    if not isinstance(names, Iterable):
        raise ValueError(
            f"names must be one string or a list of them, one per vector; received {names!r}."
        )
    given = [names] if isinstance(names, str) else [str(name) for name in names]
    if len(given) != n:
        raise ValueError(f"received {len(given)} names for {n} vectors: pass one each, or none.")
    return given


def _result(
    numbers: dict[str, np.ndarray],
    labels: list[str],
    wanted: list[int],
    tokenizer: Any,
    record: dict[str, Any],
) -> LensResult:
    """A result with one site, and nothing where a run would be needed."""
    n = len(labels)
    none, nan = np.full(n, -1, dtype=np.int32), np.full((1, n), np.nan, dtype=np.float32)
    logprobs, ranks = numbers["wanted_logprobs"][..., :-1], numbers["wanted_ranks"][..., :-1]
    tokens = Tokens(
        np.zeros(n, dtype=np.int32),
        np.arange(n, dtype=np.int32),
        none,
        none,
        np.zeros(n, dtype=bool),
        labels,
    )
    return LensResult(
        sites=[Site(None, "vector")],
        tokens=tokens,
        prompts=["vectors"],
        top_ids=numbers["top_ids"],
        top_logprobs=numbers["top_logprobs"],
        entropy=numbers["entropy"],
        kl_to_final=nan,
        logsumexp=numbers["logsumexp"],
        next_logprobs=nan,
        next_ranks=none[None],
        final_ids=none,
        model_logprobs=nan[0],
        final_logprobs=nan,
        final_ranks=none[None],
        target_ids=np.array([wanted], dtype=np.int32).reshape(1, -1),
        target_logits=logprobs + numbers["logsumexp"][..., None],
        target_logprobs=logprobs,
        target_ranks=ranks,
        tracked_ids=numbers["tracked_ids"],
        tracked_logprobs=numbers["tracked_logprobs"],
        texts=token_texts(tokenizer, {*np.unique(numbers["top_ids"]).tolist(), *wanted}),
        certificate=None,
        provenance=record,
    )
