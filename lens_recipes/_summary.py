"""A result in a few lines, for an assistant that reads on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._generation_table import ending, share
from ._table import probability
from .components import PARTS, are_vectors, components, main_component, place, series
from .result import LensResult
from .steps import quartiles, settling, statistics, steps

VECTORS_SHOWN = 5
PARTS_NAMED = 5
STEPS_NAMED = 5


def summary(result: LensResult) -> str:
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


def _answer(one: LensResult, number: int) -> Iterator[str]:
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
            f", top-1 from {place(one.sites[settled])} on" if settled >= 0 else f", not top-1 at the last {last} read"
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


def _written(one: LensResult, number: int) -> Iterator[str]:
    """What was written after one prompt: how it ended, when its tokens settled, and what was not the first choice."""
    every, found = steps(one), statistics(one)
    if one.responses:
        yield f"prompt {number}: wrote {_cut(repr(one.responses[0].text))} ({ending(one)})"
    else:
        yield f"prompt {number}: wrote {_cut(repr(''.join(step.wrote for step in every)))}"
    if len(found.layers):
        yield (
            f"  the model's first choice settled at layer {quartiles(found.layers)}, {share(found.last, found.tokens)} "
            "only at the last layer read"
        )
        late = sorted((step for step in every if step.site >= 0), key=lambda step: (-step.site, step.margin))
        named = (f"step {step.number} {step.answer!r} ({place(one.sites[step.site])})" for step in late[:STEPS_NAMED])
        yield f"  decided latest, and by the smallest margin: {', '.join(named)}"
    if others := [step for step in every if not step.first_choice]:
        named = (
            f"step {step.number} {step.wrote!r} (p {probability(step.logprob)}; {step.answer!r} "
            f"{probability(step.answer_logprob)})"
            for step in sorted(others, key=lambda step: step.logprob)[:STEPS_NAMED]
        )
        yield f"  not the model's first choice: {share(len(others), found.tokens)}, least likely {', '.join(named)}"
    for j, target in enumerate(one.target_ids[0]):
        yield f"  target {one.text(target)!r}, at the last step: {_ranks(one, settling(one), every[-1].token, j)}"


def _cut(text: str, width: int = 200) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _named(one: LensResult, sites: list[int], token: int) -> str:
    """The sites at which the answer is top-1, the surest first."""
    sites = sorted(sites, key=lambda s: -one.final_logprobs[s, token])
    named = [f"{one.sites[s]} (p {probability(one.final_logprobs[s, token])})" for s in sites[:PARTS_NAMED]]
    more = f" and {len(sites) - PARTS_NAMED} more" if len(sites) > PARTS_NAMED else ""
    return ", ".join(named) + more


def _ranks(one: LensResult, along: list[int], token: int, j: int) -> str:
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
    line = f"rank {ranks[0]} at {place(sites[0])}"
    line += f", {ranks[-1]} at {place(sites[-1])} (p {probability(one.target_logprobs[along[-1], token, j])})"
    if (ranks < 10).any():
        line += f"; first in the top 10 at {place(sites[int((ranks < 10).argmax())])}"
    if ranks[best] < ranks[-1]:
        line += f"; best {ranks[best]} at {place(sites[best])}"
    return f"{line}; of the other sites {alone}" if alone else line


def _vectors(result: LensResult) -> Iterator[str]:
    for t, name in enumerate(result.tokens.text[:VECTORS_SHOWN]):
        tops = zip(result.top_ids[0, t, :3], result.top_logprobs[0, t], strict=False)
        yield f"vector {name!r}: " + ", ".join(f"{result.text(i)!r} (p {probability(p)})" for i, p in tops)
    if len(result.tokens) > VECTORS_SHOWN:
        yield f"… and {len(result.tokens) - VECTORS_SHOWN} more vectors: result.to_frame()"


def _distrust(result: LensResult) -> Iterator[str]:
    if result.certificate is None:
        yield f"no certificate: {result.provenance.get('certificate', 'nothing to compare with')}"
    else:
        yield from [str(result.certificate)] if not result.certificate.passed else []
    if not result.normed:
        yield result.mark
    if are_vectors(result.sites):
        return
    if cut := [n for n, response in enumerate(result.responses) if response.finish == "interrupted"]:
        yield f"interrupted: the text of prompt {', '.join(map(str, cut))} is not all that the model would have written"
    if result.provenance.get("generation", {}).get("do_sample"):
        yield "sampled: with another seed the model writes another text"
    if len(result) == 1:
        yield "one prompt is one observation: run several before you generalise"
    if parts := [name for name in components(result.sites) if name in PARTS]:
        size = (
            "the final norm scales a small one up like a large one" if result.normed else "its size is not its effect"
        )
        yield f"{', '.join(parts)}: what is added to the stream, read alone; {size}, so a confident part may add little"
    main = main_component(result.sites)
    if main is None or not main.startswith("resid"):
        return
    along = series(result.sites)
    last = [np.flatnonzero(result.tokens.prompt == p)[-1] for p in range(len(result))]
    middle = result.kl_to_final[along[len(along) // 2], last].mean()
    if len(along) > 2 and middle > 5:
        yield (
            f"halfway up the lens is {middle:.1f} nats from the final answer: early layers may hold what this basis "
            "does not show (a lens that does not transfer is not evidence of absence)"
        )
