"""A lens result as one page that answers: a map to click on, the tokens that are pinned, and the proof."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.colors import get_colorscale
from plotly.offline import get_plotlyjs

from lens_recipes.arrays.lens import AXES, LensArrays
from lens_recipes.arrays.metrics import METRICS, fixed_range, output_site, vocab_size
from lens_recipes.arrays.sites import (
    UNORDERED,
    are_vectors,
    components,
    layer_series,
    main_component,
    site_label,
)
from lens_recipes.arrays.text import escape_page_text, visible_token
from lens_recipes.arrays.tracks import named_prompts
from lens_recipes.views.figures.base.color import contrast_colors_along, rank_bar
from lens_recipes.views.figures.base.style import COLORS, DASHES, MARKERS
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.pages.html import figure_json, script_page
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.words import prompt_end

MAX_BYTES = 12_000_000

TEXT = 40  # characters of a token

PROMPTS_SAID = 5  # in full, at the foot of the page

OURS = 80_000  # bytes: script, style, template, and the frame of the data

_ARRAYS = (
    "top_logprobs", "entropy", "kl_to_final", "logsumexp", "next_logprobs", "next_ranks", "final_logprobs",
    "final_ranks", "model_logprobs", "target_logprobs", "target_ranks",
)  # fmt: skip


def report(
    result: LensArrays,
    path: str | os.PathLike[str],
    *,
    prompts: int | Iterable[int] | None = None,
    title: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Write one HTML file that needs no network: the map of all layers and tokens, and what a click on it asks for.

    A click on a cell pins its top token, whose probability at every layer is drawn beside the map where the result
    follows it: targets, tracked tokens, the model's answer and the prompt's next token. There are sliders, a search,
    the same numbers as a table, and the certificate. The address of the page holds the view: a link reopens it.

    Args:
        result: Any lens result.
        path: Where to, a name in .html.
        prompts: Which prompts, one or several. None: from the first on as many as the page has room for.
        title: Replaces the page's own.
        max_bytes: Of the page, of which plotly.js takes 4.5 MB. Tracked tokens are left out before this is exceeded,
            the most likely ones last.

    Raises:
        ValueError: no such prompt, or prompts that need more than `max_bytes`.
        LensError: the path cannot be written.

    Example:
        >>> report(logit_lens(load("smollm2"), "The capital of France is", targets=" Paris"), "report.html")
    """
    if not isinstance(result, LensArrays):
        raise ValueError(f"a report is about a lens result; received {type(result).__name__}.")
    if not str(path).lower().endswith((".html", ".htm")):
        raise ValueError(f"a report is an .html file; received {str(path)!r}.")
    summary, facts = lens_summary(result), _facts(result)
    words = sum(
        len(escape_page_text(text).encode())
        for text in (summary, *result.prompts[:PROMPTS_SAID], *facts.values())
    )
    shown, data, cut = _fitting(
        result, prompts, max_bytes - len(get_plotlyjs().encode()) - words - OURS
    )
    left_out = (
        f"{len(shown)} of {len(result)} prompts are on this page"
        if len(shown) < len(result)
        else ""
    )
    said = {f"prompt {p}": result.prompts[p] for p in shown[:PROMPTS_SAID]}
    said |= {
        f"response {p}": result.responses[p].text for p in shown[:PROMPTS_SAID] if result.responses
    }
    page = script_page(
        "report.html.j2",
        "report.js",
        title=figure_json(_name(result, shown) if title is None else str(title)),
        model=figure_json(str(result.provenance.get("model", "model"))),
        certified=result.certificate is not None and result.certificate.passed and result.normed,
        mark=figure_json(result.mark) if result.mark else "",
        left_out="; ".join(filter(None, [left_out, cut])),
        summary=figure_json(summary),
        facts=[(name, figure_json(text)) for name, text in (said | facts).items()],
        data=data,
    )
    with atomic_file(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _name(result: LensArrays, shown: list[int]) -> str:
    if are_vectors(result.sites):
        return f"{len(result.tokens)} vectors"
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return prompt_end(result.prompts[shown[0]], 100) + more


def _facts(result: LensArrays) -> dict[str, str]:
    proof = (
        result.provenance.get("certificate", "none")
        if result.certificate is None
        else result.certificate
    )
    facts = {**result.provenance, "certificate": str(proof)}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in facts.items()
    }


# -- what has room -----------------------------------------------------


def _fitting(result: LensArrays, prompts: Any, room: int) -> tuple[list[int], Markup, str]:
    """Which prompts are shown, the data that the script reads, in `room` bytes, and in words what had none."""
    shown = _prompts(result, prompts, room)
    while (size := len(_json(data := _data(result, shown)).encode())) > room:
        if prompts is not None or len(shown) == 1:
            raise ValueError(
                f"the page of {len(shown)} prompt{'s' if len(shown) > 1 else ''} would have {size - room:,} bytes more "
                "than max_bytes: pass fewer prompts=, a larger max_bytes=, or read fewer positions or layers."
            )
        shown = shown[: min(len(shown) - 1, max(1, len(shown) * room // size))]
    cut = _track(data, result, shown, room - size)
    return shown, _json(data), cut


def _prompts(result: LensArrays, prompts: Any, room: int) -> list[int]:
    """The prompts that are named, or as many as could have room."""
    if prompts is None:
        sizes = np.bincount(result.tokens.prompt, minlength=len(result)) * _token_bytes(result)
        return list(range(max(1, int((sizes.cumsum() <= room).sum()))))
    if not (found := named_prompts(result, prompts)):
        raise ValueError("prompts= names no prompt: pass at least one, or None.")
    return found


def _token_bytes(result: LensArrays) -> int:
    """What the numbers of one token at all sites need at most, without tracked tokens, in bytes of base64."""
    k, targets = result.top_ids.shape[-1], result.target_ids.shape[-1]
    return math.ceil(len(result.sites) * (8 * k + 8 * targets + 28) * 4 / 3)


def _json(data: dict[str, Any]) -> Markup:
    return htmlsafe_json_dumps(data, ensure_ascii=False)


def _track(data: dict[str, Any], result: LensArrays, shown: list[int], room: int) -> str:
    """Add the tracked tokens that have room, of each position the most likely ones; and say how many these are."""
    here = _tokens(result, shown)
    ids, logprobs = result.tracked_ids[here], result.tracked_logprobs[:, here]
    there, column = (
        ids.shape[1],
        (len(result.sites) + 1) * max(1, len(here)) * 16 / 3,
    )  # bytes of base64
    most = min(there, int(room / column))
    if most < there:
        order = np.argsort(-np.nan_to_num(logprobs.max(0), nan=-np.inf), axis=-1)[:, :most]
        ids, logprobs = (
            np.take_along_axis(ids, order, 1),
            np.take_along_axis(logprobs, order[None], 2),
        )
    data["arrays"] |= {
        "tracked": _packed(_numbered(ids, data["ids"])),
        "tracked_logprobs": _packed(logprobs),
    }
    return (
        f"of the {there} tracked tokens of a position the {most} most likely"
        if most < there
        else ""
    )


# -- what the script reads ---------------------------------------------


def _tokens(result: LensArrays, shown: list[int]) -> NDArray[np.intp]:
    """Indices of the tokens of some prompts, prompt after prompt."""
    return np.concatenate([np.flatnonzero(result.tokens.prompt == p) for p in shown])


def _numbered(ids: NDArray[np.int32], known: list[int]) -> NDArray[np.int32]:
    """Ids as indices into those of the page, −1 for none."""
    return np.where(ids < 0, -1, np.searchsorted(known, ids)).astype(np.int32)


def _data(result: LensArrays, shown: list[int]) -> dict[str, Any]:
    """All but the numbers of tracked tokens, ready for JSON."""
    here = _tokens(result, shown)
    arrays = {name: getattr(result, name).take(here, AXES[name].index("token")) for name in _ARRAYS}
    top, final, next_ids = (
        result.top_ids[:, here],
        result.final_ids[here],
        result.tokens.next_id[here],
    )
    targets, tracked = result.target_ids[shown], result.tracked_ids[here]
    used = np.unique(
        np.concatenate([ids.reshape(-1) for ids in (top, final, next_ids, targets, tracked)])
    )
    ids = used[used >= 0].tolist()
    arrays |= {"top": _numbered(top, ids), "final": _numbered(final, ids)}
    lengths = [int((result.tokens.prompt == p).sum()) for p in shown]
    stops = np.cumsum(lengths).tolist()
    vectors = are_vectors(result.sites)
    there = [name for name in components(result.sites) if name != "embed"] or ["embed"]
    main = main_component(result.sites) or next(
        (name for name in there if name not in UNORDERED), there[0]
    )
    return {
        "sites": [
            {
                "label": str(site),
                "place": site_label(site),
                "layer": site.layer,
                "component": site.component,
            }
            for site in result.sites
        ],
        "components": there,
        "main": main,
        "along": [] if main in (*UNORDERED, "embed") else layer_series(result.sites, main),
        "line_axis": "layer" if main == "resid_post" else f"layer ({main})",
        "answers": not vectors,
        "output_site": output_site(result),
        "prompts": [
            {
                "text": prompt_end(result.prompts[p], 80),
                "start": stop - length,
                "stop": stop,
                "targets": row,
            }
            for p, length, stop, row in zip(
                shown, lengths, stops, _numbered(targets, ids).tolist(), strict=True
            )
        ],
        "tokens": {
            "text": [visible_token(result.tokens.text[t], TEXT) for t in here],
            "position": result.tokens.position[here].tolist(),
            "next": _numbered(next_ids, ids).tolist(),
            "generated": result.tokens.generated[here].tolist(),
        },
        "ids": ids,
        "texts": [visible_token(result.text(i), TEXT) for i in ids],
        "metrics": _metrics(result, ("kl", "loss") if vectors else ()),
        "rank_ticks": rank_bar(vocab_size(result)),
        "colors": COLORS,
        "dashes": DASHES,
        "markers": MARKERS,
        "arrays": {name: _packed(array) for name, array in arrays.items()},
    }


def _metrics(result: LensArrays, without: Iterable[str]) -> dict[str, Any]:
    return {
        name: {
            "label": metric.label,
            "about": metric.about,
            "colors": colors,
            "inks": contrast_colors_along(colors),
            "range": fixed_range(name, vocab_size(result)),
            "logarithmic": name == "rank",
            "two_sided": metric.two_sided,
        }
        for name, metric in METRICS.items()
        for colors in [
            get_colorscale(metric.colors) if isinstance(metric.colors, str) else metric.colors
        ]
        if name not in without
    }


def _packed(array: np.ndarray) -> dict[str, Any]:
    """Little-endian bytes in base64, no larger than the numbers need."""
    if array.dtype.kind == "f":
        kind = "f4"
    else:
        kind = "u2" if array.size and array.min() >= 0 and array.max() < 2**16 else "i4"
    stored = base64.b64encode(np.ascontiguousarray(array, dtype=f"<{kind}").tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "base64": stored}
