"""Whether a lens belongs to a model: what can be told before anything is read with it."""

from __future__ import annotations

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import LensError
from lens_recipes.lenses.digests import (
    starts_with_bos,
    tokenizer_digest,
    tuned_lens_hash,
    unembedding_digest,
)
from lens_recipes.lenses.files.checks import check_made_up, is_identity
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.record import LensRecord
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.weights.origin import model_name, model_revision, versions


def check_belongs(lens: Lens, model: Envoy) -> None:
    """Refuse a lens that cannot belong to a model.

    Its numbers must be finite. Compared are the width, the layers, the unembedding and the
    tokenizer. What is not known of the lens or of the model is passed over: a lens that passes may
    still be of another revision.

    Raises:
        LensError: the lens is of another model, or the model cannot be read.
    """
    check_made_up(lens.kind, lens.transports)  # again: a transport may have been replaced since
    parts = anatomy(model)
    _check_width(lens, parts)
    _check_layers(lens, parts)
    if lens.not_finite:
        raise LensError(
            f"{_named(lens)} holds NaN or infinite numbers at layers {lens.not_finite}: nothing "
            "can be read with it. Fit it again, or get its file again."
        )
    record = lens.record
    if record.unembedding is not None:
        found = unembedding_digest(model)
        if found is not None and found != record.unembedding:
            raise LensError(
                f"{_named(lens)} was fitted on a model with another unembedding: its digest there "
                f"is {record.unembedding}, in this model {found}.{_of_model(record)} Load the "
                "checkpoint that the lens was fitted on, or fit a lens on this one."
            )
    if record.tokenizer is not None:
        found = tokenizer_digest(model)
        if found is not None and found != record.tokenizer:
            raise LensError(
                f"{_named(lens)} was fitted with another tokenizer, or with texts that begin "
                f"otherwise: the digest there is {record.tokenizer}, of this model's {found}."
                f"{_of_model(record)} Use the tokenizer of that checkpoint, or fit a lens with "
                "this one."
            )


def model_record(model: Envoy) -> LensRecord:
    """Return a record with all that it says of a model, for a lens that is fitted on it."""
    return LensRecord(
        model=model_name(model),
        revision=model_revision(model),
        n_layers=anatomy(model).n_layers,
        unembedding=unembedding_digest(model),
        tokenizer=tokenizer_digest(model),
        starts_with_bos=starts_with_bos(model),
        target_layer=anatomy(model).last_layer,
        versions=versions(),
    )


def _check_width(lens: Lens, parts: Anatomy) -> None:
    """Raise a LensError if the lens is for wider or narrower vectors."""
    for transport in lens.transports.values():
        d_out, d_in = transport.weight.shape
        if (d_out, d_in) != (parts.d_model, parts.d_model):
            width = d_in if d_in == d_out else f"{d_in} to {d_out}"
            raise LensError(
                f"{_named(lens)} is for vectors of the width {width}, and the stream of this "
                f"{parts.family} is {parts.d_model} wide: it was fitted on another model."
                f"{_of_model(lens.record)} Load a lens of this model, or fit one."
            )


def _check_layers(lens: Lens, parts: Anatomy) -> None:
    """Raise a LensError if the lens is for more or fewer layers."""
    record = lens.record
    if record.n_layers is not None and record.n_layers != parts.n_layers:
        raise LensError(
            f"{_named(lens)} was fitted on a model with {record.n_layers} layers, and this "
            f"{parts.family} has {parts.n_layers}.{_of_model(record)} Load a lens of this model, "
            "or fit one."
        )
    if record.target_layer is not None and record.target_layer != parts.last_layer:
        raise LensError(
            f"{_named(lens)} maps to the stream after layer {record.target_layer}, and what the "
            f"head of this {parts.family} reads is the stream after layer {parts.last_layer}. "
            "Fit it again with the last layer as its target."
        )
    beyond = [layer for layer in lens.layers if layer > parts.last_layer]
    if beyond:
        raise LensError(
            f"{_named(lens)} has a transport for layer {beyond[-1]}, and the last layer of this "
            f"{parts.family} is {parts.last_layer}: it was fitted on a deeper model."
            f"{_of_model(record)} Load a lens of this model, or fit one."
        )
    last = lens.transports.get(parts.last_layer)
    if last is not None and not is_identity(last):
        raise LensError(
            f"{_named(lens)} has a transport for layer {parts.last_layer}, the last one of this "
            f"{parts.family}, which is read as it is. It was fitted on a deeper model, or not on "
            "the streams after the blocks (lenses of heads have one layer more). Load a lens of "
            "this model, or fit one."
        )


def _named(lens: Lens) -> str:
    """Return how a sentence about a lens begins."""
    return f"the {lens.name} of {lens.source!r}"


def _of_model(record: LensRecord) -> str:
    """Return which model the lens says that it is of, as a sentence; empty where it does not."""
    return "" if record.model is None else f" It says that it is of {record.model!r}."


__all__ = [
    "check_belongs",
    "model_record",
    "starts_with_bos",
    "tokenizer_digest",
    "tuned_lens_hash",
    "unembedding_digest",
]
