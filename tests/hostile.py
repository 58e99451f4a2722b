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
# What each field of a saved result may hold: a link, a picture, a sheet of styles, a large text, TeX, a formula, and more.
FIELD = (
    "=1+1<a href='https://x.invalid/a'>link</a><img src=https://x.invalid/b onerror=\"window.acted=1\">"
    "<script>window.acted=1</script></script></title></pre></style><style>@import 'https://x.invalid/c'</style>"
    "<link rel=prefetch href=https://x.invalid/d><span style='font-size:300px'>large</span>&lt;b&gt;$\\alpha$%{y}|`*_#"
    "\u202e\ud800\x00\n\t"
)
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


def hostile_fields(result: Any, text: str = FIELD) -> Any:
    """The same result, of either kind, with one hostile text in every field that is a text.

    A component that the views know by its name, such as "embed", keeps its name.
    """
    known = ("embed", "head_out", "vector", "layer", "bias", "value_bias")
    changes: dict[str, Any] = {}
    for name in ("sites", "parts"):
        if hasattr(result, name):
            changes[name] = [
                entry if entry.component in known else entry._replace(component=text)
                for entry in getattr(result, name)
            ]
    if hasattr(result, "sources"):
        changes["sources"] = [[text] * len(texts) for texts in result.sources]
        if result.against:
            changes["against"] = text
    if getattr(result, "responses", None):
        changes["responses"] = [type(response)(text, text) for response in result.responses]
    provenance = _with_hostile_texts(result.provenance, text) | {
        "model": text, "certificate": text, "recipe": text, "revision": text, f"key {text}": [text],
    }  # fmt: skip
    if result.certificate is not None:
        changes["certificate"] = dataclasses.replace(result.certificate, dtype=text)
    return dataclasses.replace(
        result,
        texts=dict.fromkeys(result.texts, text),
        tokens=dataclasses.replace(result.tokens, text=[text] * len(result.tokens)),
        prompts=[text] * len(result.prompts),
        provenance=provenance,
        **changes,
    )


def _with_hostile_texts(value: Any, text: str) -> Any:
    """The same data, as JSON has them, with a hostile text in the place of every text."""
    if isinstance(value, dict):
        return {key: _with_hostile_texts(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_hostile_texts(item, text) for item in value]
    return text if isinstance(value, str) else value


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
