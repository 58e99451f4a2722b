"""Texts that a page, plotly, a terminal or TeX might act on, and what has no look of its own; and how a figure is asked
whether it took one of them for anything but text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

HOSTILE = [
    "<s>", "</s>", "<br>", "</script>", "</pre>", "$x$", "%{y}", "%{customdata}", "&lt;", "<!--", "\n\n", "\x00", "",
    "שלום", "\u202eabc", "⟨F0⟩", "x" * 300, "<img src=x onerror=alert(1)>", "🙂", "\ud800", '"', "'", "|", "\t",
]  # fmt: skip
OURS = re.compile(r"</?(b|br|sub|extra)>")


def hostile_texts(result: Any) -> Any:
    """The same lens result with a hostile text in the place of every token's, of its prompts and of its model."""
    ids = sorted(
        {*result.texts, *map(int, result.tokens.id), *map(int, result.tokens.next_id)} - {-1}
    )
    texts = {token: HOSTILE[i % len(HOSTILE)] for i, token in enumerate(ids)}
    tokens = dataclasses.replace(result.tokens, text=[texts[int(i)] for i in result.tokens.id])
    model = {**result.provenance, "model": "<i>m</i>$y$"}
    prompts = ["".join(HOSTILE)] * len(result.prompts)
    return dataclasses.replace(
        result, texts=texts, tokens=tokens, prompts=prompts, provenance=model
    )


def leaves(value: Any) -> Iterator[str]:
    """Every text of a figure."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)


def assert_inert(figure: Any) -> None:
    """No text of a figure is a tag, an entity or TeX, and no token stands where plotly looks for fields."""
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)
    for text in leaves(plain):
        assert not set("<>$") & set(OURS.sub("", text)), text
        assert not re.search(r"&(?!amp;|lt;|gt;|#36;|quot;|#x27;)", text), text
    asked = [
        trace.get(name) for trace in plain["data"] for name in ("hovertemplate", "texttemplate")
    ]
    assert set(filter(None, asked)) <= {"%{customdata}<extra></extra>", "%{text}"}
    assert {key for frame in plain.get("frames", []) for trace in frame["data"] for key in trace} <= {
        "type", "x", "y", "z", "text", "customdata",
    }  # fmt: skip


def cell_words(figure: Any, n: int = 0) -> list[list[str]]:
    """The words in a figure's `n`-th heatmap, of whose cells each has one in white or one in black."""
    white = figure.data[n]
    black = [trace for trace in figure.data if trace.type == "heatmap" and not trace.customdata][n]
    assert not any(
        a and b
        for pair in zip(white.text, black.text, strict=True)
        for a, b in zip(*pair, strict=True)
    )
    return [
        [a or b for a, b in zip(*pair, strict=True)]
        for pair in zip(white.text, black.text, strict=True)
    ]
