"""Why a reader should distrust a lens result, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import PARTS, are_vectors, components, layer_series, main_component
from lens_recipes.views.summaries.outline import certificate_doubts, sample_doubts

FAR_FROM_ANSWER = 5.0  # nats of KL halfway up: another basis is likelier than another prediction


def lens_doubts(result: LensArrays) -> Iterator[str]:
    """Yield the reasons to distrust a lens result, the gravest first."""
    yield from certificate_doubts(result)
    if not result.normed:
        yield result.mark
    if are_vectors(result.sites):
        return
    yield from _generation_doubts(result)
    yield from sample_doubts(result)
    yield from _part_doubts(result)
    yield from _basis_doubts(result)


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


def _basis_doubts(result: LensArrays) -> Iterator[str]:
    """Yield a warning if the lens is far from the answer halfway up the residual stream."""
    component = main_component(result.sites)
    if component is None or not component.startswith("resid"):
        return
    series = layer_series(result.sites)
    if len(series) <= 2:
        return
    middle_site = series[len(series) // 2]
    last_tokens = []
    for number in range(len(result)):
        tokens = np.flatnonzero(result.tokens.prompt == number)
        last_tokens.append(tokens[-1])
    distance = result.kl_to_final[middle_site, last_tokens].mean()
    if distance > FAR_FROM_ANSWER:
        yield (
            f"halfway up the lens is {distance:.1f} nats from the final answer: early layers may "
            "hold what this basis does not show (a lens that does not transfer is not evidence of "
            "absence)"
        )
