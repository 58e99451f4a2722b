"""`decode_vectors()`: any vector of the stream, through the model's own norm and unembedding.

A steering vector, an SAE decoder row (Bricken et al. 2023 read features so), a head's output
direction, a cached
activation: the readout is that of the lens, without a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import nnsight
import numpy as np
import torch
from jaxtyping import Float, Int
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.arrays.axes import Site, Tokens
from lens_recipes.caller import argument
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import dtype_of
from lens_recipes.models.lens_head import plain_head
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.tokens.vocabulary import token_texts
from lens_recipes.models.weights.offload import input_device
from lens_recipes.results import LensResult
from lens_recipes.run.assemble import lens_result
from lens_recipes.run.recipe import recipe
from lens_recipes.run.request.lenses import (
    layer_list,
    lens_provenance,
    recorded_lens,
    resolve_lens,
    transport_of_layer,
)
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import as_list, check_numbers
from lens_recipes.run.request.sites import pick_layers
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import lens_schema
from lens_recipes.trace.batch import BatchSize
from lens_recipes.trace.collect import Rows
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.lens_head import LensHead
from lens_recipes.trace.operations import Operation, first_of
from lens_recipes.trace.plan import SiteRead
from lens_recipes.trace.readout.readout import ReadoutOptions, readout
from lens_recipes.trace.transport import IDENTITY, Affine, Transport

FAR = 4  # times as long, or as short, as the streams that a lens was fitted on
NO_RUN = "vectors are decoded without a run, so there are no logits of the model to compare with"


def trace_vectors(model: Any, plan: VectorPlan, batch: VectorBatch) -> dict[str, Tensor]:
    """Decode vectors on a server, in a run of one token that shows where the stream is."""
    with torch.no_grad(), model.trace(input_ids=plan.one_token):
        like = first_of(model.get(plan.last_block).output)
        head = LensHead(model, plan.head_operations)
        numbers = nnsight.save(read_vectors(head, plan, batch, like))
    return numbers  # noqa: RET504 - a traced block does not return


def read_vectors(
    head: LensHead, plan: VectorPlan, batch: VectorBatch, like: Tensor
) -> dict[str, Tensor]:
    """Return the readout of vectors, on the device of `like` and as precise.

    The model says nothing here: its logits are zeros, and what follows from them is left out of the
    result.
    """
    n_vectors = len(batch.vectors)
    no_logits = torch.zeros(1, 1, plan.vocab_size, dtype=torch.float32, device="cpu")
    first = torch.zeros(n_vectors, dtype=torch.long, device="cpu")
    rows: list[Rows] = [partial(rows_like, batch.vectors, like)]
    reads = [SiteRead(0, apply_norm=plan.apply_norm, transport=plan.transport)]
    return readout(rows, reads, head, no_logits, (first, first), batch.requested_ids, plan.options)


def rows_like(vectors: Tensor, like: Tensor, part: slice) -> Tensor:
    """Return some of the vectors, on the device and in the precision of another tensor."""
    return vectors[part].to(like)


class VectorPlan(NamedTuple):
    """What is done with vectors.

    Attributes:
        head_operations: What the model does between its last block and its logits.
        options: What is asked for of every vector.
        apply_norm: Whether the final norm is applied.
        vocab_size: How many tokens the model has.
        last_block: Where it is.
        one_token: A prompt to run, `[1, 1]`.
        transport: From the vectors to the stream before the final norm.
    """

    head_operations: list[Operation]
    options: ReadoutOptions
    apply_norm: bool
    vocab_size: int
    last_block: str
    one_token: Int[Tensor, "1 1"]
    transport: Transport = IDENTITY

    @property
    def max_bytes(self) -> int:
        """Bound on the memory for logits."""
        return self.options.max_bytes

    def batch_size(self, batch: VectorBatch) -> BatchSize:
        """Return what makes a batch large. Nothing is read of a run."""
        n_vectors = len(batch.vectors)
        return BatchSize(
            rows=1,
            columns=1,
            new_tokens=0,
            logits_per_row=0,
            keeps_scores=False,
            tokens=n_vectors,
            vectors=0,
            logit_rows=n_vectors,
            mapped_rows=0 if self.transport is IDENTITY else n_vectors,
        )

    def batch_identity(self, batch: VectorBatch) -> dict[str, Any]:
        """Return what tells a batch from another. The names are those of saved jobs."""
        return {"rows": batch.vectors, "wanted": batch.requested_ids}


class VectorBatch(NamedTuple):
    """Vectors `[vector, d_model]`, and the ids that are followed `[vector, requested]`."""

    vectors: Float[Tensor, "vector d_model"]
    requested_ids: Int[Tensor, "vector requested"]


@recipe(narrow="Pass fewer vectors at once, or a smaller top_k")
def decode_vectors(
    model: Envoy,
    vectors: Any,
    names: str | Sequence[str] | None = None,
    *,
    targets: Any = None,
    top_k: int = 5,
    apply_norm: bool = True,
    lens: Any = None,
    layer: int | None = None,
    with_bias: bool = False,
    max_bytes: int = LOGIT_BYTES,
    remote: bool | str | None = None,
) -> RecipeRun[LensResult]:
    """What a vector of the residual stream would say if it were the last block's output.

    The final norm divides by the vector's own size, so only its direction counts: a vector and
    twice the vector say the same, and a small one is not less sure. −v is another question than v.
    (The norm's epsilon bounds this: what is so small that its mean square is near that, often 1e-5,
    fades towards the zero vector, which says what the biases of norm and unembedding say, and where
    there are none all tokens alike.)

    Args:
        model: What `load()` returns.
        vectors: One vector `[d_model]` or several `[vector, d_model]`: a tensor, an array, lists of
            numbers, or a list of vectors. They are read in the precision of the model's weights.
        names: What to call each of them; None for "vector 0", "vector 1", …
        targets: Tokens to follow, as strings or ids.
        top_k: How many of the most likely tokens to keep.
        apply_norm: False leaves out the final norm: then logits are linear in the vector, and its
            size counts.
        lens: As for `logit_lens`: what the vectors say if they stand after block `layer`.
        layer: After which block the vectors stand, for a lens; negative from the end.
        with_bias: Whether the lens's bias is added. False for directions, which are parts of a
            stream; True for whole streams, such as cached activations, whose size then counts: of
            those that are over four times as long or short as what the lens was fitted on,
            `summary()` says so.
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: As for `logit_lens`.

    Returns:
        A `LensResult` with the one site `Site(None, "vector")` and one entry per vector on the
        token axis, its name as the token's text. What needs a run is NaN, or −1 for ids and ranks:
        `kl_to_final`, `next_*`, `final_*`. There is
        no certificate: `provenance["certificate"]` says why.

    Raises:
        ValueError: vectors that are not `d_model` wide, not finite in the model's precision, or not
            as many as their names; a target that is not one token.

    Example:
        >>> projection = model._module.model.layers[29].mlp.down_proj
        >>> neuron = projection.weight[:, 7]  # what it writes to the stream
        >>> names = ["when it fires", "when it is negative"]
        >>> print(decode_vectors(model, [neuron, -neuron], names))
    """
    request = Request(model, targets=targets, remote=remote)
    vocab_size = request.anatomy.vocab_size
    check_numbers(top_k, None, max_bytes, vocab_size)
    rows = vector_rows(vectors, request.anatomy.d_model, dtype_of(model))
    labels = vector_names(names, len(rows))
    chosen_lens = resolve_lens(lens, model)
    transport = vector_transport(chosen_lens, layer, with_bias, request.anatomy)
    options = ReadoutOptions(n_sites=1, top_k=top_k, track=None, max_tracked=1, max_bytes=max_bytes)
    plan = VectorPlan(
        head_operations=request.head_operations,
        options=options,
        apply_norm=apply_norm,
        vocab_size=vocab_size,
        last_block=request.anatomy.block(request.anatomy.last_layer),
        one_token=torch.tensor([request.anatomy.plain_ids[:1]], device="cpu"),
        transport=transport,
    )
    target_ids = request.target_ids[0]
    batch = VectorBatch(rows, torch.tensor([target_ids] * len(rows), device="cpu"))
    return RecipeRun(
        request=request,
        traced=trace_vectors,
        plan=plan,
        batches=[batch],
        schemas=[lens_schema(options, [], 0, len(rows), len(target_ids))],
        finish=partial(finish, labels),
        arguments={
            "vectors": rows.tolist(),
            "names": labels,
            "lens": recorded_lens(chosen_lens),
        },
        about=lens_provenance(chosen_lens)
        | far_off(rows, chosen_lens, layer, with_bias, request.anatomy),
        run_here=run_here,
    )


def run_here(run: RecipeRun[LensResult]) -> list[Arrays]:
    """Decode the vectors in this process, without a run of the model."""
    model, batch = run.model, run.batches[0]
    device = input_device(model._module)
    like = torch.empty(0, dtype=batch.vectors.dtype, device=device)
    head = LensHead(model, run.plan.head_operations, plain_head(model, run.anatomy))
    with torch.no_grad():
        numbers = read_vectors(head, run.plan, batch, like)
    return [{array_name: value.numpy() for array_name, value in numbers.items()}]


def finish(labels: list[str], run: RecipeRun[LensResult], batches: list[Arrays]) -> LensResult:
    """Make the result: one site, and nothing where a run would be needed."""
    numbers, target_ids = batches[0], run.request.target_ids[0]
    n_vectors = len(labels)
    no_ids = np.full(n_vectors, -1, dtype=np.int32)
    no_numbers = np.full((1, n_vectors), np.nan, dtype=np.float32)
    tokens = Tokens(
        prompt=np.zeros(n_vectors, dtype=np.int32),
        position=np.arange(n_vectors, dtype=np.int32),
        id=no_ids,
        next_id=no_ids,
        generated=np.zeros(n_vectors, dtype=bool),
        text=labels,
    )
    # The last requested id is the model's own answer. There is none, and no next token.
    target_logprobs = numbers["wanted_logprobs"][..., :-1]
    target_ranks = numbers["wanted_ranks"][..., :-1]
    of_a_run = {
        "kl": no_numbers,
        "final_ids": no_ids,
        "final_logprob": no_numbers[0],
        "final_entropy": no_numbers[0],
        "wanted_logprobs": np.concatenate(
            [target_logprobs, no_numbers[..., None].repeat(2, -1)], -1
        ),
        "wanted_ranks": np.concatenate([target_ranks, no_ids[None, :, None].repeat(2, -1)], -1),
    }
    shown_ids = {*np.unique(numbers["top_ids"]).tolist(), *target_ids}
    return lens_result(
        {**numbers, **of_a_run},
        sites=[Site(None, "vector")],
        tokens=tokens,
        prompts=["vectors"],
        target_ids=[target_ids],
        texts=token_texts(run.request.tokenizer, shown_ids),
        certificate=None,
        provenance=run.provenance() | {"certificate": NO_RUN},
    )


# -- arguments ---------------------------------------------------------


def vector_transport(
    lens: Lens | None, layer: int | None, with_bias: bool, anatomy: Anatomy
) -> Transport:
    """Return the map from the vectors to the stream before the final norm.

    Raises:
        ValueError: a lens without a layer, a layer or a bias without a lens, or a layer for which
            the lens has no transport.
    """
    if lens is None:
        if layer is not None or with_bias:
            raise ValueError(
                "layer and with_bias belong to a lens: without one, vectors are read as they are. "
                "Pass lens=, too, or leave them out."
            )
        return IDENTITY
    if layer is None:
        raise ValueError(
            f"a {lens.name} has another transport at each layer: pass layer=, the block after "
            f"which the vectors stand. It has {layer_list(lens, anatomy)}."
        )
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer):
        raise ValueError(
            f"{argument('layer', layer)} must be one layer, a whole number: the block after which "
            "the vectors stand."
        )
    (chosen,) = pick_layers(layer, anatomy)
    transport = transport_of_layer(chosen, lens, anatomy)
    if isinstance(transport, Affine) and not with_bias:
        return transport.without_bias()
    return transport


def far_off(
    rows: Float[Tensor, "vector d_model"],
    lens: Lens | None,
    layer: int | None,
    with_bias: bool,
    anatomy: Anatomy,
) -> dict[str, list[int]]:
    """Return which whole streams are far from those that a lens was fitted on, by their length.

    Nothing of directions, whose length does not count, and where the fit did not keep it.
    """
    if lens is None or not with_bias:
        return {}
    (chosen,) = pick_layers(layer, anatomy)
    size = lens.record.settings.get("sizes", {}).get(str(chosen))
    if not isinstance(size, float) or not size > 0:
        return {}
    ratios = rows.float().norm(dim=-1) / size
    is_far = (ratios > FAR) | (ratios < 1 / FAR)
    far = is_far.nonzero()[:, 0].tolist()
    return {"far_off": far} if far else {}


def vector_rows(vectors: Any, width: int, dtype: torch.dtype) -> Float[Tensor, "vector d_model"]:
    """Return the vectors on the CPU, in the precision of the model's weights.

    Raises:
        ValueError: they are no real, finite numbers, or not as wide as the stream.
    """
    rows = as_tensor(vectors)
    if rows.is_complex() or rows.is_meta:
        received = "a tensor without numbers (it is on the meta device)"
        if rows.is_complex():
            received = "complex numbers"
        raise ValueError(f"received {received} as vectors; accepted are real numbers.")
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[-1] != width or not len(rows):
        raise ValueError(
            f"received vectors of shape {list(rows.shape)}; this model's stream is {width} wide: "
            f"pass [{width}] or "
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


def as_tensor(vectors: Any) -> Tensor:
    """Return whatever holds vectors as a tensor.

    Raises:
        ValueError: it holds no numbers, or rows of several widths.
    """
    try:
        vectors = as_list(vectors)
        is_sequence = isinstance(vectors, list | tuple) and len(vectors) > 0
        if is_sequence and all(isinstance(vector, Tensor) for vector in vectors):
            return torch.stack([vector.detach().cpu() for vector in vectors])
        if isinstance(vectors, Tensor):
            dense = vectors.layout == torch.strided
            return vectors.detach() if dense else vectors.detach().to_dense()
        return torch.from_numpy(own_copy(np.asarray(vectors)))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"received {type(vectors).__name__} as vectors; accepted are a tensor, an array or "
            "lists of numbers, "
            "each vector of one width."
        ) from None


def own_copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that torch takes: of this machine's byte order, without strides or locks."""
    is_long_double = array.dtype == np.longdouble
    dtype = np.dtype(np.float64) if is_long_double else array.dtype.newbyteorder("=")
    return np.array(array, dtype=dtype, order="C")


def vector_names(names: Any, n_vectors: int) -> list[str]:
    """Return a name for each vector.

    Raises:
        ValueError: not as many names as vectors.
    """
    if names is None:
        return [f"vector {number}" for number in range(n_vectors)]
    if not isinstance(names, Iterable):
        raise ValueError(
            f"names must be one string or a list of them, one per vector; received {names!r}."
        )
    given = [names] if isinstance(names, str) else [str(name) for name in names]
    if len(given) != n_vectors:
        raise ValueError(
            f"received {len(given)} names for {n_vectors} vectors: pass one each, or none."
        )
    return given
