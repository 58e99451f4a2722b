"""The summary of a lens result: where answers settle, how targets' ranks move, what to distrust."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from lens_recipes.arrays.batch.outcomes import is_batch
from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import SAME_DISTRIBUTION, LensArrays
from lens_recipes.arrays.sites import are_vectors, main_component, site_label
from lens_recipes.caller import SHOW_ONE, say
from lens_recipes.views.readings import SiteReading
from lens_recipes.views.summaries.batch import describe_batch
from lens_recipes.views.summaries.doubts import lens_doubts
from lens_recipes.views.summaries.edits.effects import effect_lines
from lens_recipes.views.summaries.generation import describe_generation
from lens_recipes.views.summaries.images import image_lines
from lens_recipes.views.summaries.outline import PROMPTS_APART, outline, prompt_lines
from lens_recipes.views.summaries.ranks import describe_ranks
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.summaries.trust import FIRST_READABLE, dating, first_readable
from lens_recipes.views.words import lens_beside, probability

EACH_PROMPT = "each prompt: print(result), result.outcomes(), result[i].summary()"

VECTORS_NAMED = 5

PREDICTIONS_NAMED = 3  # of each vector

SITES_NAMED = 5


def lens_summary(result: LensArrays) -> str:
    """Return the text of `LensResult.summary`."""
    model = result.provenance.get("model", "model")
    headline = f"{model}{lens_beside(result)}: {result.size}"
    if are_vectors(result.sites):
        lines = _describe_vectors(result)
    elif len(result) > PROMPTS_APART and is_batch(result):
        lines = itertools.chain(describe_batch(result), [say(python=EACH_PROMPT, shell=SHOW_ONE)])
    else:
        lines = prompt_lines(result, _describe_prompt)
    measured = filter(None, [lens_line(result)])
    everything = itertools.chain(effect_lines(result), lines, image_lines(result), measured)
    return outline(headline, everything, lens_doubts(result))


def _describe_prompt(result: LensArrays, number: int) -> Iterator[str]:
    """Yield the lines of one prompt: what the model wrote, or else its answer."""
    if result.tokens.generated.any():
        yield from describe_generation(result, number)
    else:
        yield from _describe_answer(result, number)


def _describe_answer(result: LensArrays, number: int) -> Iterator[str]:
    """Yield the model's answer after the last token read, and how the sites come to it."""
    token_index = len(result.tokens) - 1
    token = result.tokens.text[token_index]
    answer = result.text(result.final_ids[token_index])
    answer_probability = probability(result.model_logprobs[token_index])
    yield (
        f"prompt {number}, after {token!r}: the model answers {answer!r} (p {answer_probability})"
        f"{_where_settled(result, token_index)}"
    )
    yield from _describe_other_sites(result, token_index)
    for target_index, target_id in enumerate(result.target_ids[0]):
        ranks = describe_ranks(result, token_index, target_index)
        yield f"  target {result.text(target_id)!r}: {ranks}"


def _where_settled(result: LensArrays, token_index: int) -> str:
    """Return from where on the answer is top-1; empty where the sites have no order.

    Examples: ", top-1 from layer 7 on", ", not top-1 at the last layer read".
    """
    series = settling(result)
    if not series:
        return ""
    component = main_component(result.sites)
    settled = int(result.settled()[token_index])
    if settled < 0:
        last_site = "layer" if component == "resid_post" else f"{component} of the layers"
        return f", not top-1 at the last {last_site} read"
    sentence = f", {dating(result, series, settled, token_index)}"
    start = first_readable(result, series, token_index)
    if start > 0 and series[start] < settled:
        rank = result.final_ranks[series[start], token_index]
        label = site_label(result.sites[series[start]])
        sentence += f"; already of rank {rank} at {label}, {FIRST_READABLE}"
    distance = result.kl_to_final[series[-1], token_index]
    if component == "resid_post" and distance > SAME_DISTRIBUTION:
        sentence += ", of the layers read (the last was not)"
    return sentence


def _describe_other_sites(result: LensArrays, token_index: int) -> Iterator[str]:
    """Yield at which sites the answer is top-1, besides those along which it settles."""
    series = settling(result)
    others = [site_index for site_index in range(len(result.sites)) if site_index not in series]
    if not others:
        return
    places = _places_of_answer(result, others, token_index)
    if series:
        yield f"  also top-1 at {places or f'none of the {len(others)} other sites'}"
    else:
        yield f"  top-1 at {places or f'none of the {len(others)} sites'}"


def _places_of_answer(result: LensArrays, site_indices: list[int], token_index: int) -> str:
    """Return those of some sites where the answer is top-1, the surest first; empty for none."""
    ranks = result.final_ranks[:, token_index]
    logprobs = result.final_logprobs[:, token_index]
    agreeing = [site_index for site_index in site_indices if ranks[site_index] == 0]
    agreeing.sort(key=lambda site_index: -logprobs[site_index])
    places = []
    for site_index in agreeing[:SITES_NAMED]:
        places.append(f"{result.sites[site_index]} (p {probability(logprobs[site_index])})")
    sentence = ", ".join(places)
    left_out = len(agreeing) - SITES_NAMED
    if left_out > 0:
        sentence += f" and {left_out} more"
    return sentence


def _describe_vectors(result: LensArrays) -> Iterator[str]:
    """Yield what the first vectors of `decode_vectors` say, and how many are left out."""
    for token_index, name in enumerate(result.tokens.text[:VECTORS_NAMED]):
        predictions = []
        for prediction in SiteReading(result, 0, token_index).predictions(PREDICTIONS_NAMED):
            predictions.append(f"{prediction.text!r} (p {probability(prediction.logprob)})")
        yield f"vector {name!r}: {', '.join(predictions)}"
    left_out = len(result.tokens) - VECTORS_NAMED
    if left_out > 0:
        rest = say(python="result.to_frame()", shell="--format tsv has all")
        yield f"… and {left_out} more vectors: {rest}"
