"""A result in a few lines, for an assistant that reads on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.generation import quartiles, settling, statistics, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import (
    PARTS,
    are_vectors,
    components,
    layer_series,
    main_component,
    site_label,
)
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.words import (
    after_token,
    ending,
    part_name,
    percentage,
    probability,
    signed,
    source_groups,
)

VECTORS_SHOWN = 5

PARTS_NAMED = 5

STEPS_NAMED = 5


def lens_summary(result: LensArrays) -> str:
    """See `LensResult.summary`."""
    lines = [f"{result.provenance.get('model', 'model')}: {result.size}"]
    if are_vectors(result.sites):
        lines += _vectors(result)
    else:
        for number, one in zip(range(5), result, strict=False):
            lines += (_written if one.tokens.generated.any() else _answer)(one, number)
        if len(result) > 5:
            lines.append(f"… and {len(result) - 5} more prompts: result[i].summary()")
    return "\n".join([*lines, *(f"distrust: {reason}" for reason in _distrust(result))])


def _answer(one: LensArrays, number: int) -> Iterator[str]:
    """The last token read of one prompt: where its answer settles, and how the targets' ranks move."""
    token = len(one.tokens) - 1
    main = main_component(one.sites)
    along = settling(one)
    answer, p = repr(one.text(one.final_ids[token])), probability(one.model_logprobs[token])
    where = ""
    if along:
        settled = int(one.settled()[token])
        last = "layer" if main == "resid_post" else f"{main} of the layers"
        where = (
            f", top-1 from {site_label(one.sites[settled])} on"
            if settled >= 0
            else f", not top-1 at the last {last} read"
        )
        if main == "resid_post" and settled >= 0 and one.kl_to_final[along[-1], token] > 1e-3:
            where += ", of the layers read (the last was not)"
    yield f"prompt {number}, after {one.tokens.text[token]!r}: the model answers {answer} (p {p}){where}"
    others = [s for s, rank in enumerate(one.final_ranks[:, token]) if rank == 0 and s not in along]
    if len(along) < len(one.sites):
        rest = f"the {len(one.sites) - len(along)} {'other ' if along else ''}sites"
        yield f"  {'also ' if along else ''}top-1 at {_named(one, others, token) or f'none of {rest}'}"
    for j, target in enumerate(one.target_ids[0]):
        yield f"  target {one.text(target)!r}: {_ranks(one, along, token, j)}"


def _written(one: LensArrays, number: int) -> Iterator[str]:
    """What was written after one prompt: how it ended, when its tokens settled, and what was not the first choice."""
    every, found = steps(one), statistics(one)
    if one.responses:
        yield f"prompt {number}: wrote {_cut(repr(one.responses[0].text))} ({ending(one)})"
    else:
        yield f"prompt {number}: wrote {_cut(repr(''.join(step.wrote for step in every)))}"
    if len(found.layers):
        yield (
            f"  the model's first choice settled at layer {quartiles(found.layers)}, {percentage(found.last, found.tokens)} "
            "only at the last layer read"
        )
        late = sorted(
            (step for step in every if step.site >= 0), key=lambda step: (-step.site, step.margin)
        )
        named = (
            f"step {step.number} {step.answer!r} ({site_label(one.sites[step.site])})"
            for step in late[:STEPS_NAMED]
        )
        yield f"  decided latest, and by the smallest margin: {', '.join(named)}"
    if others := [step for step in every if not step.first_choice]:
        named = (
            f"step {step.number} {step.wrote!r} (p {probability(step.logprob)}; {step.answer!r} "
            f"{probability(step.answer_logprob)})"
            for step in sorted(others, key=lambda step: step.logprob)[:STEPS_NAMED]
        )
        yield f"  not the model's first choice: {percentage(len(others), found.tokens)}, least likely {', '.join(named)}"
    for j, target in enumerate(one.target_ids[0]):
        yield f"  target {one.text(target)!r}, at the last step: {_ranks(one, settling(one), every[-1].token, j)}"


def _cut(text: str, width: int = 200) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _named(one: LensArrays, sites: list[int], token: int) -> str:
    """The sites at which the answer is top-1, the surest first."""
    sites = sorted(sites, key=lambda s: -one.final_logprobs[s, token])
    named = [
        f"{one.sites[s]} (p {probability(one.final_logprobs[s, token])})"
        for s in sites[:PARTS_NAMED]
    ]
    more = f" and {len(sites) - PARTS_NAMED} more" if len(sites) > PARTS_NAMED else ""
    return ", ".join(named) + more


def _ranks(one: LensArrays, along: list[int], token: int, j: int) -> str:
    """How a target's rank moves along some sites, and where else it is best."""
    others = [s for s in range(len(one.sites)) if s not in along]
    alone = ""
    if others:
        best = min(others, key=lambda s: one.target_ranks[s, token, j])
        p = probability(one.target_logprobs[best, token, j])
        alone = f"best rank {one.target_ranks[best, token, j]} at {one.sites[best]} (p {p})"
    if not along:
        return alone
    ranks, sites = one.target_ranks[along, token, j], [one.sites[s] for s in along]
    best = int(ranks.argmin())
    line = f"rank {ranks[0]} at {site_label(sites[0])}"
    line += f", {ranks[-1]} at {site_label(sites[-1])} (p {probability(one.target_logprobs[along[-1], token, j])})"
    if (ranks < 10).any():
        line += f"; first in the top 10 at {site_label(sites[int((ranks < 10).argmax())])}"
    if ranks[best] < ranks[-1]:
        line += f"; best {ranks[best]} at {site_label(sites[best])}"
    return f"{line}; of the other sites {alone}" if alone else line


def _vectors(result: LensArrays) -> Iterator[str]:
    for t, name in enumerate(result.tokens.text[:VECTORS_SHOWN]):
        tops = zip(result.top_ids[0, t, :3], result.top_logprobs[0, t], strict=False)
        yield f"vector {name!r}: " + ", ".join(
            f"{result.text(i)!r} (p {probability(p)})" for i, p in tops
        )
    if len(result.tokens) > VECTORS_SHOWN:
        yield f"… and {len(result.tokens) - VECTORS_SHOWN} more vectors: result.to_frame()"


def _distrust(result: LensArrays) -> Iterator[str]:
    if result.certificate is None:
        yield f"no certificate: {result.provenance.get('certificate', 'nothing to compare with')}"
    else:
        yield from [str(result.certificate)] if not result.certificate.passed else []
    if not result.normed:
        yield result.mark
    if are_vectors(result.sites):
        return
    if cut := [
        n for n, response in enumerate(result.responses) if response.finish == "interrupted"
    ]:
        yield f"interrupted: the text of prompt {', '.join(map(str, cut))} is not all that the model would have written"
    if result.provenance.get("generation", {}).get("do_sample"):
        yield "sampled: with another seed the model writes another text"
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
    if parts := [name for name in components(result.sites) if name in PARTS]:
        size = (
            "the final norm scales a small one up like a large one"
            if result.normed
            else "its size is not its effect"
        )
        yield f"{', '.join(parts)}: what is added to the stream, read alone; {size}, so a confident part may add little"
    main = main_component(result.sites)
    if main is None or not main.startswith("resid"):
        return
    along = layer_series(result.sites)
    last = [np.flatnonzero(result.tokens.prompt == p)[-1] for p in range(len(result))]
    middle = result.kl_to_final[along[len(along) // 2], last].mean()
    if len(along) > 2 and middle > 5:
        yield (
            f"halfway up the lens is {middle:.1f} nats from the final answer: early layers may hold what this basis "
            "does not show (a lens that does not transfer is not evidence of absence)"
        )


DIRECT_ONLY = "direct effects only: what a part does through later layers is not counted"


@np.errstate(invalid="ignore")
def attribution_summary(result: AttributionArrays) -> str:
    """See `Attribution.summary`."""
    model = result.provenance.get("model", "model")
    lines = [f"{model}: logits by {result.unit} after layer {result.at_layer}; {result.size}"]
    for number, one in zip(range(5), result, strict=False):
        for k in range(one.target_ids.shape[1] if len(one.tokens) else 0):
            lines += _attribution_answer(one, number, k)
    if len(result) > 5:
        lines.append(f"… and {len(result) - 5} more prompts: result[i].summary()")
    return "\n".join([*lines, *(f"distrust: {reason}" for reason in _attribution_distrust(result))])


def _attribution_answer(one: AttributionArrays, number: int, k: int) -> Iterator[str]:
    """After the last token read of one prompt: a target's logit, and which parts made it."""
    token = len(one.tokens) - 1
    values, total, logit = one.values[:, token, k], one.total[token, k], one.logit[token, k]
    capped = one.capped_logit[token, k]
    softcap = "" if signed(capped) == signed(logit) else f" ({signed(capped)} after the softcap)"
    against = (
        ""
        if one.against_ids[0, k] >= 0 or one.against
        else ", against nothing (what all tokens share is in it)"
    )
    name = one.target_name(0, k)
    yield f"prompt {number}, {after_token(one, token)}: the logit of {name} is {signed(logit)}{softcap}{against}"
    order = by_size(values)
    helping, hurting = (
        [p for p in order if values[p] > 0][:3],
        [p for p in order if values[p] < 0][:3],
    )
    for word, found in (("helping", helping), ("hurting", hurting)):
        yield f"  {word} most: {', '.join(f'{part_name(one, one.parts[p])} {signed(values[p])}' for p in found) or '–'}"
    if lost := int(np.isnan(values).sum()):
        yield f"  not a number: {lost} of {len(values)} parts"
    shown = [*helping, *hurting]
    share = np.abs(values[shown]).sum() / max(np.abs(values).sum(), 1e-30)
    yield (
        f"  these {len(shown)} sum to {signed(values[shown].sum())} of the total {signed(total)}, and hold {share:.0%} "
        "of all |values|"
    )
    yield f"  sum of each kind: {_listed(_by_kind(one, values))}"
    if one.unit == "token" and one.sources:
        sums = np.nansum(source_groups(one, values)[1], axis=0)
        read = [
            (f"token {s} {visible_token(one.sources[0][s])}", sums[s]) for s in by_size(sums)[:3]
        ]
        yield f"  read most from: {_listed(read)}"


def _by_kind(one: AttributionArrays, values: NDArray[np.float32]) -> list[tuple[str, float]]:
    kinds = dict.fromkeys(part.component for part in one.parts)
    return [(kind, values[[part.component == kind for part in one.parts]].sum()) for kind in kinds]


def _listed(sums: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {signed(value)}" for name, value in sums)


def _attribution_distrust(result: AttributionArrays) -> Iterator[str]:
    if result.certificate is None:
        yield f"no certificate: {result.provenance.get('certificate', 'nothing to compare with')}"
    elif not result.certificate.passed:
        yield str(result.certificate)
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
    yield DIRECT_ONLY
