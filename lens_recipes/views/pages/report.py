"""Write a lens result as one interactive page: a map to click on, pinned tokens, and the proof."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.tracks import named_prompts
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.arrays.text import escape_page_text
from lens_recipes.caller import say
from lens_recipes.views.files.atomic import write_text
from lens_recipes.views.pages.html import Fact, page_text, script_page
from lens_recipes.views.pages.report_batch import batch_section
from lens_recipes.views.pages.report_data import (
    add_tracked_tokens,
    page_data,
    token_bytes,
    tokens_of,
)
from lens_recipes.views.pages.report_fields import PageData
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.words import prompt_end

MAX_BYTES = 12_000_000

PROMPTS_IN_FULL = 5  # at the foot of the page

OWN_BYTES = 80_000  # script, style, template, and the frame of the data


def report(
    result: LensArrays,
    path: str | os.PathLike[str],
    *,
    prompts: int | Iterable[int] | None = None,
    title: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write one HTML file that needs no network: a map of all layers and tokens to click on.

    A page of several prompts opens on a table with a row for each: what became of its target, and
    the target's rank from layer to layer as colours. A click on a row shows its prompt below.

    A click on a cell pins its top token, whose probability at every layer is drawn beside the map
    where the result follows it: targets, tracked tokens, the model's answer and the prompt's next
    token. There are sliders, a search, the same numbers as a table, and the certificate. The
    address of the page holds the view: a link reopens it.

    Args:
        result: Any lens result.
        path: Where to, a name in .html.
        prompts: Which prompts, one or several. None: from the first on as many as the page has room
            for.
        title: Replaces the page's own.
        max_bytes: Of the page, of which plotly.js takes 4.5 MB. Tracked tokens are left out before
            this is exceeded, the most likely ones last.

    Raises:
        ValueError: no such prompt, or prompts that need more than `max_bytes`.
        LensError: the path cannot be written.

    Example:
        >>> result = logit_lens(load("smollm2"), "The capital of France is", targets=" Paris")
        >>> report(result, "report.html")
    """
    if not isinstance(result, LensArrays):
        raise ValueError(f"a report is about a lens result; received {type(result).__name__}.")
    if not str(path).lower().endswith((".html", ".htm")):
        raise ValueError(f"a report is an .html file; received {str(path)!r}.")
    summary = lens_summary(result)
    facts = provenance_facts(result)
    fixed_texts = [summary, *result.prompts[:PROMPTS_IN_FULL], *(fact.text for fact in facts)]
    fixed_bytes = sum(len(escape_page_text(text).encode()) for text in fixed_texts)
    batch = batch_section(result)
    if batch is not None:
        fixed_bytes += batch.n_bytes
    room = max_bytes - len(get_plotlyjs().encode()) - fixed_bytes - OWN_BYTES
    fitted = fit_data(result, prompts, room)
    if title is None:
        title = default_title(result, fitted.prompts)
    all_facts = [*prompt_facts(result, fitted.prompts), *facts]
    page = script_page(
        "report.html.j2",
        "report.js",
        title=page_text(str(title)),
        model=page_text(str(result.provenance.get("model", "model"))),
        verdict=verdict(result),
        mark=page_text(result.mark) if result.mark else "",
        trust=unreadable_sentence(result, tokens_of(result, fitted.prompts).tolist()),
        left_out="; ".join(fitted.left_out),
        summary=page_text(summary),
        batch=None if batch is None or len(fitted.prompts) == 1 else batch.only(fitted.prompts),
        facts=[(page_text(fact.name), page_text(fact.text)) for fact in all_facts],
        data=fitted.data,
    )
    write_text(path, page)


# -- the words ---------------------------------------------------------


def default_title(result: LensArrays, prompts: list[int]) -> str:
    """Return the end of the first prompt, and how many more there are."""
    if are_vectors(result.sites):
        return f"{len(result.tokens)} vectors"
    title = prompt_end(result.prompts[prompts[0]], 100)
    if len(prompts) > 1:
        title += f" (and {len(prompts) - 1} more)"
    return title


def prompt_facts(result: LensArrays, prompts: list[int]) -> list[Fact]:
    """Return the first prompts in full, and what the model wrote after them, if it did."""
    first = prompts[:PROMPTS_IN_FULL]
    facts = [Fact(f"prompt {prompt}", result.prompts[prompt]) for prompt in first]
    if result.responses:
        facts += [Fact(f"response {prompt}", result.responses[prompt].text) for prompt in first]
    return facts


def provenance_facts(result: LensArrays) -> list[Fact]:
    """Return where the result is from, and its certificate."""
    values = dict(result.provenance)
    values["certificate"] = str(result.certificate or values.get("certificate", "none"))
    facts = []
    for fact_name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        facts.append(Fact(fact_name, value))
    return facts


# -- the room ----------------------------------------------------------


class FittedData(NamedTuple):
    """The prompts that have room, their data as JSON, and in words what has none."""

    prompts: list[int]
    data: Markup
    left_out: list[str]


def fit_data(result: LensArrays, prompts: int | Iterable[int] | None, room: int) -> FittedData:
    """Return the data that the script reads, in at most `room` bytes.

    Raises:
        ValueError: there is no such prompt, or the prompts that are named have no room.
    """
    chosen = choose_prompts(result, prompts, room)
    data = page_data(result, chosen)
    size = len(as_json(data).encode())
    while size > room:
        if prompts is not None or len(chosen) == 1:
            named = "1 prompt" if len(chosen) == 1 else f"{len(chosen)} prompts"
            raise ValueError(
                f"the page of {named} would have {size - room:,} bytes more than max_bytes: "
                + say(
                    python="pass fewer prompts=, a larger max_bytes=, or read fewer positions or "
                    "layers.",
                    shell="read fewer --positions or --layers.",
                )
            )
        in_proportion = max(1, len(chosen) * room // size)
        chosen = chosen[: min(len(chosen) - 1, in_proportion)]
        data = page_data(result, chosen)
        size = len(as_json(data).encode())
    left_out = []
    if len(chosen) < len(result):
        left_out.append(f"{len(chosen)} of {len(result)} prompts are on this page")
    n_tracked = result.tracked_ids.shape[1]
    n_added = add_tracked_tokens(data, result, chosen, room - size)
    if n_added < n_tracked:
        left_out.append(
            f"of the {n_tracked} tracked tokens of a position the {n_added} most likely"
        )
    return FittedData(chosen, as_json(data), left_out)


def choose_prompts(result: LensArrays, prompts: int | Iterable[int] | None, room: int) -> list[int]:
    """Return the prompts that are named, or from the first on as many as could have room."""
    if prompts is None:
        sizes = np.bincount(result.tokens.prompt, minlength=len(result)) * token_bytes(result)
        n_prompts = int((sizes.cumsum() <= room).sum())
        return list(range(max(1, n_prompts)))
    named = named_prompts(result, prompts)
    if not named:
        raise ValueError("prompts= names no prompt: pass at least one, or None.")
    return named


def as_json(data: PageData) -> Markup:
    """Return the data as JSON that can stand in a page."""
    return htmlsafe_json_dumps(data, ensure_ascii=False, default=vars)
