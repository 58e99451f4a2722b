"""Write a lens result as one interactive page: a map to click on, pinned tokens, and the proof."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.edits.words import edit_in_words
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.tracks import named_prompts
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.arrays.survey.arrays import SurveyArrays
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
from lens_recipes.views.pages.report_images import drop_pictures
from lens_recipes.views.pages.report_lenses import lens_notes, lenses_on_page
from lens_recipes.views.plotly_js.bundle import packed_plotly
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.words import lens_beside, lens_names, prompt_end, quantity, shown_edits

MAX_BYTES = 12_000_000

PROMPTS_IN_FULL = 5  # at the foot of the page

OWN_BYTES = 80_000  # script, style, template, and the frame of the data


def report(
    result: LensArrays,
    path: str | os.PathLike[str],
    *,
    beside: LensArrays | Iterable[LensArrays] | None = None,
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

    The images of a prompt stand beside the map, their patches in the colours of the layer that is
    shown. A click on a patch pins its top token. The patches where the token that was pinned last
    is read are framed.

    With results of the same prompts that were read with other lenses (`beside`) the page has a
    switch between the lenses, the difference of any two of them in every cell, and for each
    position the tokens by the layer at which each lens first has them as its top-1.

    Args:
        result: Any lens result.
        path: Where to, a name in .html.
        beside: One result or several of the same tokens, read with other lenses. Layers that not
            all of them have are left out.
        prompts: Which prompts, one or several. None: from the first on as many as the page has room
            for.
        title: Replaces the page's own.
        max_bytes: Of the page, of which plotly.js takes 0.7 MB. Tracked tokens are left out before
            this is exceeded, the most likely ones last.

    Raises:
        ValueError: no such prompt, prompts that need more than `max_bytes`, or results `beside` of
            other tokens or targets.
        LensError: the path cannot be written.

    Example:
        >>> result = logit_lens(load("smollm2"), "The capital of France is", targets=" Paris")
        >>> report(result, "report.html")
        >>> report(result, "lenses.html", beside=logit_lens(model, prompt, lens="lens.safetensors"))
    """
    if isinstance(result, SurveyArrays):
        raise ValueError(
            "a report is about a lens result; a Survey writes a page of its own: "
            'survey.page("survey.html").'
        )
    if not isinstance(result, LensArrays):
        raise ValueError(f"a report is about a lens result; received {type(result).__name__}.")
    if not str(path).lower().endswith((".html", ".htm")):
        raise ValueError(f"a report is an .html file; received {str(path)!r}.")
    results = lenses_on_page(result, beside)
    n_left_out = len(result.sites) - len(results[0].sites)
    result = results[0]
    summary = "\n\n".join(lens_summary(each) for each in results)
    facts = provenance_facts(results)
    fixed_texts = [summary, *result.prompts[:PROMPTS_IN_FULL], *(fact.text for fact in facts)]
    fixed_bytes = sum(len(escape_page_text(text).encode()) for text in fixed_texts)
    batches = [batch for batch in map(batch_section, results) if batch is not None]
    fixed_bytes += sum(batch.n_bytes for batch in batches)
    all_tokens = list(range(len(result.tokens)))
    fixed_bytes += sum(note.n_bytes for note in lens_notes(results, all_tokens))
    room = max_bytes - len(packed_plotly().html) - fixed_bytes - OWN_BYTES
    fitted = fit_data(results, prompts, room)
    if title is None:
        title = default_title(result, fitted.prompts)
    if n_left_out > 0:
        fitted.left_out.append(f"{quantity(n_left_out, 'site')} that not every lens was read at")
    all_facts = [*prompt_facts(result, fitted.prompts), *facts]
    page = script_page(
        "report.html.j2",
        "report.js",
        title=page_text(str(title)),
        model=page_text(str(result.provenance.get("model", "model"))),
        lens="" if len(results) > 1 else lens_beside(result),
        verdict=common_verdict(results),
        mark=common_mark(results),
        notes=lens_notes(results, tokens_of(result, fitted.prompts).tolist()),
        left_out="; ".join(fitted.left_out),
        summary=page_text(summary),
        batches=[batch.only(fitted.prompts) for batch in batches if len(fitted.prompts) > 1],
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


def common_verdict(results: Sequence[LensArrays]) -> str:
    """Return the verdict of all certificates; where they differ, each with the name of its lens."""
    verdicts = [verdict(each) for each in results]
    if len(set(verdicts)) == 1:
        return verdicts[0]
    named = zip(lens_names(results), verdicts, strict=True)
    return ", ".join(f"{name} {words}" for name, words in named)


def common_mark(results: Sequence[LensArrays]) -> Markup | str:
    """Return what the page must say beside the numbers; empty when nothing is wrong."""
    marks = dict.fromkeys(each.mark for each in results if each.mark)
    return page_text("; ".join(marks)) if marks else ""


def provenance_facts(results: Sequence[LensArrays]) -> list[Fact]:
    """Return where the results are from, and their certificates: of each lens after the other."""
    facts = []
    for name, result in zip(lens_names(results), results, strict=True):
        if len(results) > 1:
            facts.append(Fact("read with", name))
        facts += facts_of(result)
    return facts


def facts_of(result: LensArrays) -> list[Fact]:
    """Return where one result is from, and its certificate."""
    values = dict(result.provenance)
    values["certificate"] = str(result.certificate or values.get("certificate", "none"))
    if not result.lens.is_logit:
        values["lens"] = f"{lens_line(result)}\n\n{result.lens.quality or ''}".strip()
    if result.edits:
        values["edits"] = "\n".join(edit_in_words(edit) for edit in shown_edits(result))
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


def fit_data(
    results: Sequence[LensArrays], prompts: int | Iterable[int] | None, room: int
) -> FittedData:
    """Return the data that the script reads, in at most `room` bytes.

    Raises:
        ValueError: there is no such prompt, or the prompts that are named have no room.
    """
    result = results[0]
    chosen = choose_prompts(results, prompts, room)
    data = page_data(results, chosen)
    size = len(as_json(data).encode())
    n_dropped = 0
    while size > room:
        is_fixed = prompts is not None or len(chosen) == 1
        if is_fixed and not n_dropped:
            n_dropped = drop_pictures(data)
            size = len(as_json(data).encode())
            if n_dropped:
                continue
        if is_fixed:
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
        data = page_data(results, chosen)
        size = len(as_json(data).encode())
    left_out = []
    if n_dropped:
        left_out.append(f"the pictures have no room ({n_dropped})")
    if len(chosen) < len(result):
        left_out.append(f"{len(chosen)} of {len(result)} prompts are on this page")
    n_tracked = max(each.tracked_ids.shape[1] for each in results)
    n_lacking = add_tracked_tokens(data, results, chosen, room - size)
    if n_lacking > 0:
        left_out.append(
            f"of the {n_tracked} tracked tokens of a position the {n_tracked - n_lacking} most "
            "likely"
        )
    return FittedData(chosen, as_json(data), left_out)


def choose_prompts(
    results: Sequence[LensArrays], prompts: int | Iterable[int] | None, room: int
) -> list[int]:
    """Return the prompts that are named, or from the first on as many as could have room."""
    result = results[0]
    if prompts is None:
        bytes_each = sum(token_bytes(each) for each in results)
        sizes = np.bincount(result.tokens.prompt, minlength=len(result)) * bytes_each
        n_prompts = int((sizes.cumsum() <= room).sum())
        return list(range(max(1, n_prompts)))
    named = named_prompts(result, prompts)
    if not named:
        raise ValueError("prompts= names no prompt: pass at least one, or None.")
    return named


def as_json(data: PageData) -> Markup:
    """Return the data as JSON that can stand in a page."""
    return htmlsafe_json_dumps(data, ensure_ascii=False, default=vars)
