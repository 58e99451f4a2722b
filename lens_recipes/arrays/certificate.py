"""`Certificate`: the proof that a lens was read right, and what to say when it was not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lens_recipes.arrays.text import number_ranges
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.terminal import show_lines

# How far the last layer's lens may be from the model's own logits, relative to the largest of them.
# The two are the same modules on the same vectors, so only the order of additions and the rounding
# of the dtype may differ.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-3, "bfloat16": 2e-2}

# The same for sums of parts, which are made in float32 from what the model rounded. The sum of one
# block:
BLOCK = {"float64": 1e-5, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}

# And the sum over all layers, where the stream was rounded after each addition.
TOTAL = {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

READ_BOTH_WAYS = "its prompt is read both ways: only the last token predicts"


class CertifiedResult(Protocol):
    """A result that can be certified: a lens result or an attribution."""

    @property
    def certificate(self) -> Certificate | None: ...

    @property
    def provenance(self) -> dict[str, Any]: ...


def is_certified(result: CertifiedResult) -> bool:
    """Return whether the numbers of a result are proved to be the model's.

    The certificate must have passed, and the final norm must have been applied. Without the norm
    the certificate still proves the wiring, but the numbers are not the model's predictions.
    """
    if result.certificate is None or not result.certificate.passed:
        return False
    return norm_was_applied(result.provenance)


def verdict(result: CertifiedResult) -> str:
    """Return "certified", "not certified", or "as saved" of a result that a file says is certified.

    Anyone can write a file. `result.verify(model)` proves what it says.
    """
    if result.certificate is None or not is_certified(result):
        return "not certified"
    return "as saved" if result.certificate.as_saved else "certified"


def norm_was_applied(provenance: dict[str, Any]) -> bool:
    """Return whether a run applied the final norm; only `apply_norm=False` leaves it out."""
    arguments = provenance.get("arguments", {})
    return bool(arguments.get("apply_norm", True))


# What a recipe with that argument says of a certificate that failed.
KEPT_IF_NOT_STRICT = " strict=False keeps the result, marked as not certified."


@dataclass(frozen=True)
class Certificate:
    """The last layer's lens, through norm and unembedding, against the model's own logits.

    Both are from the same run. Where parts of the stream were read, the certificate also holds the
    largest relative errors of the sums, None where nothing was added up. Both sides of each sum are
    measured. Two errors are taken number by number, relative to the sizes of all that was added up:
    `max_block_error` of stream before + what the block adds = stream after, and `max_total_error`
    of embedding + all that was added = the stream. Two are relative to the largest number:
    `max_head_error` of heads + bias = attention, and `max_sum_error` of the parts of a logit = the
    logit.

    So many streams after a block (`links`) were also compared with what the model goes on with: the
    input of the next block, or of what follows the last. `max_link_error` is the largest
    difference, relative to the largest number of the stream, at `max_link_layer`. After
    `changed_layers` something stands between, such as a hook; the lens then reads what the model
    goes on with. After `unlinked_layers` that cannot be read, so nothing was compared. After
    `image_layers` the model itself adds what it saw of an image to the image's tokens, and to no
    others; there, too, the lens reads what the model goes on with.

    `read_both_ways` tells that each token of a prompt sees the later ones, so that only the last
    one predicts what follows.

    Where the run was edited, `max_edit_error` is how far the edited vectors are from what was
    asked, relative to the largest number of each: where they were set, and where the model goes on
    with them. With a few tokens of their own, the model was also asked what edits at these sites
    do: `edit_identity_error` is how far any stream moves where what is there is written back, and
    `edit_cone_error` how far one moves outside the causal cone of a change (earlier tokens, earlier
    layers, other prompts), infinite where a change goes nowhere. `worst_edit` is the site of the
    largest of these errors.

    `as_saved` tells that all of this is what a file says, which anyone can write: it was not
    checked against a model here. `result.verify(model)` does that.
    """

    max_logit_error: float
    max_abs_logit: float
    max_kl: float
    top1_agreement: float
    tokens: int
    dtype: str
    max_block_error: float | None = None
    max_total_error: float | None = None
    max_head_error: float | None = None
    max_sum_error: float | None = None
    links: int | None = None
    max_link_error: float | None = None
    max_link_layer: int | None = None
    changed_layers: tuple[int, ...] = ()
    unlinked_layers: tuple[int, ...] = ()
    image_layers: tuple[int, ...] = ()
    read_both_ways: bool = False
    max_edit_error: float | None = None
    edit_identity_error: float | None = None
    edit_cone_error: float | None = None
    worst_edit: str | None = None
    as_saved: bool = field(default=False, compare=False, repr=False)

    @property
    def tolerance(self) -> float:
        """Return the largest logit error that rounding in this dtype explains."""
        return _tolerance_of(self.dtype, TOLERANCE) * max(self.max_abs_logit, 1e-3)

    @property
    def passed(self) -> bool:
        """Return whether the lens is wired right, and the parts add up. (A NaN anywhere fails.)"""
        return self._logits_agree and self.additive and self.edits_hold

    @property
    def edits_hold(self) -> bool:
        """Return whether edits did what was asked and nothing else, but for rounding."""
        return (
            _is_rounding(self.max_edit_error, BLOCK, self.dtype)
            and _is_rounding(self.edit_identity_error, BLOCK, self.dtype)
            and _is_rounding(self.edit_cone_error, BLOCK, self.dtype)
        )

    @property
    def additive(self) -> bool:
        """Return whether the parts sum to the stream, as far as rounding in this dtype lets them.

        A logit's parts must also sum to the logit, where it was split into parts.
        """
        return self._sums_to_stream and _is_rounding(self.max_sum_error, TOTAL, self.dtype)

    @property
    def _logits_agree(self) -> bool:
        """Return whether the last layer's lens gives the model's own logits."""
        return 0 <= self.max_logit_error <= self.tolerance < math.inf

    @property
    def _sums_to_stream(self) -> bool:
        """Return whether what the blocks add sums to the stream, and the heads to attention."""
        return (
            _is_rounding(self.max_block_error, BLOCK, self.dtype)
            and _is_rounding(self.max_total_error, TOTAL, self.dtype)
            and _is_rounding(self.max_head_error, TOTAL, self.dtype)
        )

    def __str__(self) -> str:
        verdict = "NOT CERTIFIED"
        if self.passed:
            verdict = "as saved, not checked here" if self.as_saved else "certified"
        plural = "" if self.tokens == 1 else "s"
        return (
            f"{verdict}: last-layer lens vs the model's own logits on {self.tokens} token{plural}: "
            f"largest difference {self.max_logit_error:.2g} (tolerance {self.tolerance:.2g}), "
            f"KL {self.max_kl:.2g} nats, same top-1 {self.top1_agreement:.1%} "
            f"({self.dtype}); {self._links_in_words}; {self._sums_in_words}{self._edits_in_words}"
            f"{self._mask_in_words}"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the sentence in a notebook."""
        show_lines(printer, str(self))

    @property
    def _links_in_words(self) -> str:
        """Say whether the streams that were read are what the model goes on with."""
        if self.links is None or self.max_link_error is None:
            return "links between layers: not compared"
        words = f"{self.links} link{'s' if self.links != 1 else ''} between layers"
        if self.unlinked_layers:
            words += f" (none after {layers_in_words(self.unlinked_layers)})"
        changes = []
        if self.changed_layers:
            changes.append(
                f"changed after {layers_in_words(self.changed_layers)} by a hook or an edit"
            )
        if self.image_layers:
            changes.append(
                f"after {layers_in_words(self.image_layers)} the model itself adds to the tokens "
                "of an image what it saw there"
            )
        if changes:
            return f"{words}, {' and '.join(changes)}: read as the model goes on with it"
        return f"{words}, largest error {self.max_link_error:.2g}"

    @property
    def _mask_in_words(self) -> str:
        """Say whether a prompt sees itself."""
        return f"; {READ_BOTH_WAYS}" if self.read_both_ways else ""

    @property
    def _sums_in_words(self) -> str:
        """Say how well the sums add up that were measured."""
        errors = {
            "blocks": self.max_block_error,
            "total": self.max_total_error,
            "heads": self.max_head_error,
            "logit": self.max_sum_error,
        }
        measured = [f"{name} {error:.1g}" for name, error in errors.items() if error is not None]
        if not measured:
            return "sums of parts: not read"
        return f"sums of parts, largest relative error: {', '.join(measured)}"

    @property
    def _edits_in_words(self) -> str:
        """Say how well the edits hold, where there are any."""
        if self.max_edit_error is None:
            return ""
        words = f"; edited, largest error of an edit {self.max_edit_error:.1g}"
        if self.edit_identity_error is None or self.edit_cone_error is None:
            return words
        return (
            f"{words}, of writing back what is there {self.edit_identity_error:.1g}, outside the "
            f"causal cone {self.edit_cone_error:.1g}"
        )

    def check(self, find_cause: Callable[[], str | None] | None = None) -> None:
        """Raise a LensError with the numbers and the likely cause unless `passed`.

        Args:
            find_cause: Looks at the model for what explains errors, though not NaNs; asked only
                where there are some. None to go by the numbers alone.
        """
        if self.passed:
            return
        known_cause = None if find_cause is None else find_cause()
        if not self.edits_hold:
            doubted, cause = self._doubt_of_edits()
        elif self._logits_agree:
            doubted = "Its parts"
            cause = known_cause or self._cause_of_wrong_sums()
        else:
            doubted = "The lens does not reproduce this model, so its layers"
            cause = self._cause_of_wrong_logits()
            if known_cause and not math.isnan(self.max_logit_error):
                cause = known_cause
        raise LensError(
            f"{self}. {doubted} cannot be trusted. Likely cause: {cause}."
            + say(python=KEPT_IF_NOT_STRICT, shell="")
        )

    def _doubt_of_edits(self) -> tuple[str, str]:
        """Say what edits did not do, and name the likely cause."""
        where = "" if self.worst_edit is None else f" at {self.worst_edit}"
        if not _is_rounding(self.edit_identity_error, BLOCK, self.dtype):
            return (
                f"Writing back what is there{where} changes this model, so what follows from edits",
                "the model does not give the same numbers twice, or a hook sees what is written "
                "there",
            )
        if self.edit_cone_error == math.inf:
            return (
                f"A change{where} goes nowhere: this model does not go on with what is put there, "
                "so what follows from edits",
                "a module takes its input from elsewhere, or all weights after that site are zero",
            )
        if not _is_rounding(self.edit_cone_error, BLOCK, self.dtype):
            return (
                f"A change{where} moves earlier tokens, earlier layers or other prompts of this "
                "model, so what follows from edits",
                "this model mixes tokens or prompts otherwise than causal attention does",
            )
        return (
            f"The edits{where} do not hold what was asked, so what follows from them",
            "another hook writes to the same module, the model does not go on with what is put "
            "there, or the numbers asked for leave the range of its dtype",
        )

    def _cause_of_wrong_sums(self) -> str:
        """Name the likely cause where the logits agree but the parts do not add up."""
        if self.max_sum_error is not None and self._sums_to_stream:
            return (
                "something between the stream and the logits is not linear even when the norms are "
                "frozen (an activation in the model's head), so a logit has no parts"
            )
        if self.image_layers:
            return (
                f"after {layers_in_words(self.image_layers)} this model adds to the tokens of an "
                "image what it saw there, which is no part of any block: there the parts do not "
                "sum to the stream"
            )
        return (
            "what the blocks add does not sum to the stream, so a part was missed or read at the "
            "wrong place, or something changes the stream between the parts (a hook, an adapter, "
            "or the model itself where it adds to the tokens of an image what it saw there)"
        )

    def _cause_of_wrong_logits(self) -> str:
        """Name the likely cause where the lens does not give the model's own logits."""
        if math.isnan(self.max_logit_error):
            return (
                "there are NaNs in the logits; look for overflow in half precision or broken "
                "weights"
            )
        if self.top1_agreement > 0.99:
            return (
                "the order of the tokens is right but not the numbers: a logit scale or softcap "
                "after the unembedding or the final norm's scale was missed, or the products run "
                "in reduced precision (TF32)"
            )
        if self.max_kl > 0.1:
            return (
                "the final norm was missed or applied twice, or this is not the last block's output"
            )
        return "what happens between the last block and the logits was not read right"


def joined_certificate(certificates: Sequence[Certificate]) -> Certificate | None:
    """Return the certificate of several runs of one model: the worst of each error; None for none.

    Agreement is over the tokens of all.
    """
    if not certificates:
        return None
    n_tokens = sum(each.tokens for each in certificates)
    # Whole numbers add up to the same in any order.
    agreeing = sum(_whole(each.top1_agreement * each.tokens) for each in certificates)
    worst_link = max(certificates, key=_link_order)
    values: dict[str, Any] = {}
    for name in ERRORS:
        errors = [getattr(each, name) for each in certificates]
        known = [error for error in errors if error is not None]
        values[name] = max(known, key=_largest) if known else None
    for name in ("changed_layers", "unlinked_layers", "image_layers"):
        layers = {layer for each in certificates for layer in getattr(each, name)}
        values[name] = tuple(sorted(layers))
    worst_edit = max(certificates, key=_edit_order)
    return replace(
        worst_link,
        **values,
        worst_edit=worst_edit.worst_edit,
        tokens=n_tokens,
        top1_agreement=agreeing / max(1, n_tokens),
        as_saved=any(each.as_saved for each in certificates),
        read_both_ways=any(each.read_both_ways for each in certificates),
    )


# The errors of a certificate, of which the largest counts.
ERRORS = (
    "max_logit_error",
    "max_abs_logit",
    "max_kl",
    "max_block_error",
    "max_total_error",
    "max_head_error",
    "max_sum_error",
    "max_link_error",
    "max_edit_error",
    "edit_identity_error",
    "edit_cone_error",
)


def _whole(number: float) -> float:
    """Return the nearest whole number; what is no number as it is."""
    return float(round(number)) if math.isfinite(number) else number


def _link_order(certificate: Certificate) -> tuple[float, int]:
    """Return what orders certificates by the error of their links; of equal ones the first layer.

    So what is joined in another order comes to the same.
    """
    return _largest(certificate.max_link_error), -(certificate.max_link_layer or 0)


def _edit_order(certificate: Certificate) -> float:
    """Return what orders certificates by the largest error of their edits."""
    errors = (
        certificate.max_edit_error,
        certificate.edit_identity_error,
        certificate.edit_cone_error,
    )
    return max(map(_largest, errors))


def _largest(error: float | None) -> float:
    """Return what orders errors: one that is NaN is the largest, one that is missing the least."""
    if error is None:
        return -1.0
    return math.inf if math.isnan(error) else error


def layers_in_words(layers: tuple[int, ...]) -> str:
    """Return "layer 12", or "layers 3, 12–14"; of many runs, the first and how many layers."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    ranges = number_ranges(layers)
    if len(ranges) > 6:
        return f"{len(layers)} layers from {layers[0]} on"
    return f"layers {', '.join(ranges)}"


def is_stream_rounding(error: float, dtype: str) -> bool:
    """Return whether rounding explains how far a stream is from another, relative."""
    return _is_rounding(error, BLOCK, dtype)


def _is_rounding(error: float | None, tolerances: dict[str, float], dtype: str) -> bool:
    """Return whether rounding explains a relative error, or none was measured. (A NaN is not.)"""
    return error is None or 0 <= error <= _tolerance_of(dtype, tolerances)


def _tolerance_of(dtype: str, tolerances: dict[str, float]) -> float:
    """Return the tolerance of a dtype; an unknown one counts as the coarsest, bfloat16."""
    return tolerances.get(dtype, tolerances["bfloat16"])
