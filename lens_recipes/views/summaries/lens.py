"""The summary of a lens result: where answers settle, how targets' ranks move, what to distrust."""

from __future__ import annotations

from collections.abc import Iterator

from lens_recipes.arrays.generation import settling
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors, main_component, site_label
from lens_recipes.views.extract import top_predictions
from lens_recipes.views.summaries.doubts import lens_doubts
from lens_recipes.views.summaries.generation import describe_generation
from lens_recipes.views.summaries.outline import outline, prompt_lines
from lens_recipes.views.summaries.ranks import describe_ranks
from lens_recipes.views.words import probability

VECTORS_NAMED = 5

PREDICTIONS_NAMED = 3  # of each vector

SITES_NAMED = 5

SAME_DISTRIBUTION = 1e-3  # nats of KL to the model's own output, at the model's last layer


def lens_summary(result: LensArrays) -> str:
    """Return the text of `LensResult.summary`."""
    headline = f"{result.provenance.get('model', 'model')}: {result.size}"
    if are_vectors(result.sites):
        lines = _describe_vectors(result)
    else:
        lines = prompt_lines(result, _describe_prompt)
    return outline(headline, lines, lens_doubts(result))


def _describe_prompt(result: LensArrays, number: int) -> Iterator[str]:
    """Yield the lines of one prompt: what the model wrote, or else its answer."""
    if result.tokens.generated.any():
        yield from describe_generation(result, number)
    else:
        yield from _describe_answer(result, number)


def _describe_answer(result: LensArrays, number: int) -> Iterator[str]:
    """Yield the model's answer after the last token read, and how the sites come to it."""
    token = len(result.tokens) - 1
    answer = result.text(result.final_ids[token])
    yield (
        f"prompt {number}, after {result.tokens.text[token]!r}: the model answers {answer!r} "
        f"(p {probability(result.model_logprobs[token])}){_where_settled(result, token)}"
    )
    yield from _describe_other_sites(result, token)
    for target, target_id in enumerate(result.target_ids[0]):
        ranks = describe_ranks(result, token, target)
        yield f"  target {result.text(target_id)!r}: {ranks}"


def _where_settled(result: LensArrays, token: int) -> str:
    """Return from where on the answer is top-1; empty where the sites have no order.

    Examples: ", top-1 from layer 7 on", ", not top-1 at the last layer read".
    """
    series = settling(result)
    if not series:
        return ""
    component = main_component(result.sites)
    settled = int(result.settled()[token])
    if settled < 0:
        last_site = "layer" if component == "resid_post" else f"{component} of the layers"
        return f", not top-1 at the last {last_site} read"
    place = f", top-1 from {site_label(result.sites[settled])} on"
    distance = result.kl_to_final[series[-1], token]
    if component == "resid_post" and distance > SAME_DISTRIBUTION:
        place += ", of the layers read (the last was not)"
    return place


def _describe_other_sites(result: LensArrays, token: int) -> Iterator[str]:
    """Yield at which sites the answer is top-1, besides those along which it settles."""
    series = settling(result)
    others = [site for site in range(len(result.sites)) if site not in series]
    if not others:
        return
    agreeing = [site for site in others if result.final_ranks[site, token] == 0]
    places = _name_sites(result, agreeing, token)
    if series:
        places = places or f"none of the {len(others)} other sites"
        yield f"  also top-1 at {places}"
    else:
        places = places or f"none of the {len(others)} sites"
        yield f"  top-1 at {places}"


def _name_sites(result: LensArrays, sites: list[int], token: int) -> str:
    """Return some sites with the probability that they give the answer, the highest first."""
    sites = sorted(sites, key=lambda site: -result.final_logprobs[site, token])
    named = []
    for site in sites[:SITES_NAMED]:
        logprob = result.final_logprobs[site, token]
        named.append(f"{result.sites[site]} (p {probability(logprob)})")
    names = ", ".join(named)
    if len(sites) > SITES_NAMED:
        names += f" and {len(sites) - SITES_NAMED} more"
    return names


def _describe_vectors(result: LensArrays) -> Iterator[str]:
    """Yield what the first vectors of `decode_vectors` say, and how many are left out."""
    for token, name in enumerate(result.tokens.text[:VECTORS_NAMED]):
        predictions = [
            f"{prediction.text!r} (p {probability(prediction.logprob)})"
            for prediction in top_predictions(result, 0, token, PREDICTIONS_NAMED)
        ]
        yield f"vector {name!r}: {', '.join(predictions)}"
    left_out = len(result.tokens) - VECTORS_NAMED
    if left_out > 0:
        yield f"… and {left_out} more vectors: result.to_frame()"
