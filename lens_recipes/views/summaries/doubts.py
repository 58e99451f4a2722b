"""Why a reader should distrust a lens result, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.batch.outcomes import chosen_tokens
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import PARTS, are_vectors, components
from lens_recipes.views.summaries.edits.effects import effect_doubts
from lens_recipes.views.summaries.images import image_doubts
from lens_recipes.views.summaries.outline import certificate_doubts, sample_doubts
from lens_recipes.views.summaries.transfer import transfer_doubts
from lens_recipes.views.summaries.trust import WHY, unreadable_sentence


def lens_doubts(result: LensArrays) -> Iterator[str]:
    """Yield the reasons to distrust a lens result, the gravest first."""
    yield from certificate_doubts(result)
    if not result.normed:
        yield result.mark
    if are_vectors(result.sites):
        yield from transfer_doubts(result)
        return
    yield from effect_doubts(result)
    yield from _generation_doubts(result)
    yield from sample_doubts(result)
    yield from _part_doubts(result)
    yield from _trust_doubts(result)
    yield from image_doubts(result)
    yield from transfer_doubts(result)


def _generation_doubts(result: LensArrays) -> Iterator[str]:
    """Yield which texts are not complete, and that sampled ones are a matter of chance."""
    interrupted = []
    for number, response in enumerate(result.responses):
        if response.finish == "interrupted":
            interrupted.append(str(number))
    if interrupted:
        yield (
            f"interrupted: the text of prompt {', '.join(interrupted)} is not all that the model "
            "would have written"
        )
    if result.provenance.get("generation", {}).get("do_sample"):
        yield "sampled: with another seed the model writes another text"


def _part_doubts(result: LensArrays) -> Iterator[str]:
    """Yield a warning of what blocks add: a lens does not show how much that moves the stream."""
    parts = [component for component in components(result.sites) if component in PARTS]
    if not parts:
        return
    if result.normed:
        size = "the final norm scales a small one up like a large one"
    else:
        size = "its size is not its effect"
    yield (
        f"{', '.join(parts)}: what is added to the stream, read alone; {size}, so a confident part "
        "may add little"
    )


def _trust_doubts(result: LensArrays) -> Iterator[str]:
    """Yield which layers are worse than a uniform guess.

    It is about the tokens that were written, or the last token read of each prompt.
    """
    tokens = np.flatnonzero(result.tokens.generated).tolist()
    if not tokens:
        tokens = chosen_tokens(result, -1)
    sentence = unreadable_sentence(result, tokens)
    if sentence:
        yield (f"{sentence}: {WHY}. Do not quote their top tokens or date an answer by them")
