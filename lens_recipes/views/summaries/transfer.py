"""What a fitted lens means: how far it was measured to transfer, beside the proof of its wiring.

A certificate proves that the last layer was read as the model reads it. What a lens says of an
inner layer is believed as far as it was measured there: see `LensQuality`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import PARTS, are_vectors
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.arrays.used_lens import EMBEDDING, streams_in_words
from lens_recipes.caller import say
from lens_recipes.views.summaries.trust import unfitted_sentence

AnyResult = LensArrays | AttributionArrays | SurveyArrays

# What these kinds were fitted to say.
DISPOSED = {
    "jacobian": "a Jacobian lens says what a state disposes the model to say, now or later in the "
    "text, not what its next token is",
    "r": "an R-lens says what a state disposes the model to say, now or later in the text, not "
    "what its next token is",
}

NOT_MEASURED = "how well it transfers was not measured on this model"


def lens_line(result: AnyResult) -> str:
    """Return which lens it was read with, and how far that was measured to transfer.

    It stands below the certificate, and is empty for the logit lens.

    Example: "linear lens (lens.safetensors, 3f2a91c0…): measured on 256 held-out tokens: better
    than the logit lens at all 27 layers; mean KL to the output 2.8 nats at layer 0, 0.4 at layer
    26".
    """
    lens = result.lens
    if lens.is_logit:
        return ""
    if not any(stream in lens.layers for stream in streams_read(result)):
        return f"{lens.named}: not used, as the last layer is read as it is"
    if lens.quality is None:
        return f"{lens.named}: {NOT_MEASURED}"
    quality = lens.quality.at(streams_read(result))
    if not quality.layers:
        return f"{lens.named}: not measured at what was read"
    measured = f"{lens.named}: measured on {quality.measured_on}: {quality.verdict}"
    if quality.alignment is not None and quality.alignment.layers:
        measured += f"; pushed on {quality.alignment.measured_on}: {quality.alignment.verdict}"
    if has_parts(result):
        return f"{measured}; that is of streams, and not of what blocks add"
    return measured


def has_parts(result: AnyResult) -> bool:
    """Return whether a lens result reads what blocks add."""
    if isinstance(result, AttributionArrays):
        return False
    return any(site.component in PARTS for site in result.sites)


def streams_read(result: AnyResult) -> list[int]:
    """Return the streams whose transport a result was read with, in the order of the model.

    A part of a block is read as the stream after that block is. Vectors are read as the stream
    that `decode_vectors(layer=)` named; as any of the lens's where that is not known.
    """
    if isinstance(result, AttributionArrays):
        return [result.at_layer]
    if are_vectors(result.sites):
        layer = result.provenance.get("arguments", {}).get("layer")
        is_known = type(layer) is int and layer >= 0  # −1 counts from the end there
        return [layer] if is_known else result.lens.layers
    return sorted({_stream(site) for site in result.sites})


def _stream(site: Site) -> int:
    """Return the stream that a site is part of: the number of a block, or `EMBEDDING`."""
    if site.layer is None or site.component == "embed":
        return EMBEDDING
    return site.layer - 1 if site.component == "resid_pre" else site.layer


def transfer_doubts(result: AnyResult) -> Iterator[str]:
    """Yield the reasons to distrust what a fitted lens says, the gravest first."""
    lens = result.lens
    if lens.is_logit:
        return
    yield from _measured_doubts(result)
    if isinstance(result, LensArrays):
        unfitted = unfitted_sentence(result)
        if unfitted:
            yield unfitted
        if any(site.component == "resid_mid" for site in result.sites):
            yield (
                f"resid_mid is read with the {lens.name} of the end of its layer, which is an "
                "approximation: the MLP has yet to write"
            )
        yield from _far_off_doubts(result)
    if lens.kind in DISPOSED:
        yield DISPOSED[lens.kind]


def _far_off_doubts(result: LensArrays) -> Iterator[str]:
    """Yield which vectors are far from what the lens was fitted on."""
    far = [number for number in result.provenance.get("far_off", []) if number < len(result.tokens)]
    if far:
        names = ", ".join(visible_token(result.tokens.text[number]) for number in far[:5])
        others = f" and {len(far) - 5} more" if len(far) > 5 else ""
        yield (
            f"{names}{others}: over four times as long, or as short, as the streams that the "
            f"{result.lens.name} was fitted on, so what it says of them is a guess"
        )


def _measured_doubts(result: AnyResult) -> Iterator[str]:
    """Yield where the lens was not measured, or was measured to be no better than none."""
    lens = result.lens
    if lens.quality is None:
        yield f"{lens.name}: {NOT_MEASURED}: " + say(
            python="run lens_quality(lens, model, texts), and read with lens.with_quality(it)",
            shell="in Python, lens_quality(lens, model, texts) does",
        )
        return
    read = [stream for stream in streams_read(result) if stream in lens.layers]
    unmeasured = [stream for stream in read if stream not in lens.quality.layers]
    if unmeasured:
        yield f"at {streams_in_words(unmeasured)} the {lens.name} was not measured"
    yield from lens.quality.at(read).doubts(lens.name)
