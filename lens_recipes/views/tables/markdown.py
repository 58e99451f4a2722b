"""A table as GitHub's Markdown: a heading for each prompt and pipe tables, whatever stands in a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.attribution import target_rows
from lens_recipes.views.tables.lens import Cell, more_vectors, vector_cells
from lens_recipes.views.tables.selection import PROMPTS_SHOWN, Selection, selected_token
from lens_recipes.views.words import about_token, certificate_line, probability, prompt_end

MARKUP = set(
    "\\`*_[]<>|&$~#@"
)  # what GitHub acts on in prose; no line here begins with anything else

NOT_IN_CODE = set(
    "|`\\<>&$"
)  # what it, or another renderer of pipe tables, acts on even between backticks


def markdown(result: LensArrays | AttributionArrays, shown: Selection) -> str:
    """See `_table.table`."""
    blocks = [f"**{escaped(result.mark)}**"] if result.mark else []
    if isinstance(result, LensArrays) and are_vectors(result.sites):
        blocks += [
            _predictions(result, vector_cells(result), shown.show_top, vectors=True),
            more_vectors(result),
        ]
    else:
        for number in shown.prompts[:PROMPTS_SHOWN]:
            blocks += _prompt(result[number], shown)
    return "\n\n".join(
        block for block in [*blocks, shown.more, escaped(certificate_line(result))] if block
    )


def _prompt(one: LensArrays | AttributionArrays, shown: Selection) -> Iterator[str]:
    token = selected_token(one, shown)
    yield f"### {_as_code(prompt_end(one.prompts[0]))}, {about_token(one, token, code)}"
    if token is None:
        return
    if isinstance(one, LensArrays):
        yield _predictions(one, [(str(one.sites[s]), s, token) for s in shown.rows], shown.show_top)
    else:
        yield from (_parts(one, token, k, shown.show_top) for k in range(one.target_ids.shape[1]))
    yield shown.thinned


def _predictions(
    one: LensArrays, cells: list[Cell], show_top: int, *, vectors: bool = False
) -> str:
    """A row for each site, or for each vector."""
    columns = [("vector", False) if vectors else ("layer", True)]
    for k in range(show_top):
        columns += [(f"top {k + 1}", False), ("p", True)]
    columns += [("entropy", True)] if vectors else [("entropy", True), ("KL", True)]
    columns += [(f"rank of {code(one.text(i))}", True) for i in one.target_ids[0]]
    rows = []
    for label, s, t in cells:
        row = [_as_code(label) if vectors else label]
        for i, p in zip(one.top_ids[s, t, :show_top], one.top_logprobs[s, t], strict=False):
            row += [code(one.text(i)), probability(p)]
        row += [f"{one.entropy[s, t]:.2f}", *([] if vectors else [f"{one.kl_to_final[s, t]:.2f}"])]
        rows.append([*row, *map(str, one.target_ranks[s, t])])
    return pipe_table(columns, rows)


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def _parts(one: AttributionArrays, token: int, target: int, show_top: int) -> str:
    """The largest parts of one target."""
    columns = [("part", False), (one.target_name(0, target, show=code), True)]
    rows = target_rows(one, token, target, show_top, code)
    return pipe_table(columns, rows)


# -- Markdown ----------------------------------------------------------


def pipe_table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under columns (heading, whether it holds numbers), which are Markdown already."""
    lines = [
        [name for name, _ in columns],
        ["---:" if numbers else "---" for _, numbers in columns],
        *rows,
    ]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', _by_number('|')) for cell in line)} |" for line in lines
    )


def code(text: str, width: int = 12) -> str:
    """One token as code: `visible`, and inert in a cell of a pipe table.

    >>> code(" Paris"), code("|")
    ('`·Paris`', '<code>&#124;</code>')
    """
    return _as_code(visible_token(text, width))


def _as_code(shown: str) -> str:
    if NOT_IN_CODE.isdisjoint(shown):
        return f"`{shown}`"
    # What is inside HTML's own element is still Markdown, so there all punctuation is written by number.
    return f"<code>{''.join(_by_number(char) if char.isascii() and not char.isalnum() else char for char in shown)}</code>"


def escaped(text: str) -> str:
    """A sentence in which nothing is markup."""
    return "".join(_by_number(char) if char in MARKUP else char for char in text)


def _by_number(char: str) -> str:
    return f"&#{ord(char)};"
