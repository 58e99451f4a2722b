"""A result as a table: `table()` and `render()`, one door for lens results and attributions, in every format."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from .attribution_result import Attribution
from .components import Important, chosen, components, thinned, token_index
from .consoles import kept, plain
from .display import visible
from .result import LensResult, Site

FORMATS = ("text", "markdown", "tsv")
NARROWEST, WIDEST = 40, 250  # columns of a text
PROMPTS_SHOWN = 3  # unless one is asked for


class Shown(NamedTuple):
    """What a table shows: which prompts, after which of the tokens read, how many predictions or parts, which sites.

    `named` is how many sites there are without a stride, `sites` what they are called in words.
    """

    prompts: list[int]
    position: int
    show_top: int
    rows: list[int]
    named: int
    sites: str

    @property
    def more(self) -> str:
        """What is to be said of the prompts that are left out; empty for none."""
        left = len(self.prompts) - PROMPTS_SHOWN
        return f"… and {left} more prompt{'' if left == 1 else 's'}: prompt={PROMPTS_SHOWN} is the next" * (left > 0)

    @property
    def thinned(self) -> str:
        """The same of the sites."""
        if len(self.rows) == self.named:
            return ""
        return f"{len(self.rows)} of {self.named} {self.sites}, counted from the last; stride=1 shows all"


def table(
    result: LensResult | Attribution,
    *,
    prompt: int | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
    format: str = "text",
    width: int | None = None,
) -> str:
    """What each layer predicts after one token of each prompt; of an attribution, the parts that matter most there.

    In a text, several components stand side by side, a layer's predictions one below the other; the other formats
    have a row for each site. Vectors (`decode_vectors`) have a row each.

    Args:
        result: Any lens result or attribution.
        prompt: One prompt, by its number. None for the first three, in "tsv" for all.
        position: Which of the prompt's selected tokens, an index into them; −1 is the last. (Vectors are all shown.)
        show_top: Predictions per layer, with their probabilities: None for 5, or for 1 of each of several components.
            Of an attribution, parts per target: None for 10.
        sites: None for all, or indices into `result.sites`, or what `result.important()` gives.
        component: None for all, or only the sites of this one.
        stride: Show every n-th layer, counted from the last, which is always there. None: about 40 layers, or all of
            the `sites` that were named. A table that leaves layers out says so; "tsv" has the columns `site` and
            `sites`, which one of how many.
        format: "text"; "markdown", pipe tables for GitHub; or "tsv", one table with a header, in full precision.
        width: Columns of a text, at least 40; no line is wider. It has fewer predictions, then shorter tokens, then
            fewer columns, and says which are missing. None for 250.

    Raises:
        ValueError: an unknown format, or an argument that does not go with the format or the result.

    Example:
        >>> print(table(result, width=80))
        >>> Path("lens.md").write_text(table(result, format="markdown", stride=4))
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown: accepted are {', '.join(map(repr, FORMATS))}.")
    if width is not None and format != "text":
        raise ValueError(f'width={width} goes with format="text" only: leave it out for {format!r}.')
    if width is not None and width < NARROWEST:
        raise ValueError(f"width={width} is too narrow for a table: it takes at least {NARROWEST} columns.")
    shown = _shown(result, prompt, position, show_top, sites, component, stride)
    if format == "markdown":
        from .table_markdown import markdown

        return markdown(result, shown)
    if format == "tsv":
        from .table_tsv import tsv

        return tsv(result, shown)
    from .table_text import print_table

    console = kept(width or WIDEST)
    print_table(result, console, shown)
    return plain(console)


def render(result: LensResult | Attribution, console: Console, **options: Any) -> None:
    """`table` as text on a rich console, as wide as that is, with colours where it has them."""
    from .table_text import print_table

    print_table(result, console, _shown(result, **options))


def _shown(
    result: LensResult | Attribution,
    prompt: int | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
) -> Shown:
    prompts = list(range(len(result)))
    if prompt is not None:
        if not isinstance(prompt, int | np.integer) or not -len(result) <= prompt < len(result):
            raise ValueError(f"prompt={prompt!r} is out of range: the result holds {len(result)}, counted from 0.")
        prompts = [prompts[prompt]]
    if show_top is not None and show_top < 1:
        raise ValueError(f"show_top={show_top} must be at least 1.")
    if isinstance(result, Attribution):
        options = {"sites": sites, "component": component, "stride": stride}
        if unfit := [f"{name}={value!r}" for name, value in options.items() if value is not None]:
            raise ValueError(f"{', '.join(unfit)}: an attribution has parts, not sites; show_top= says how many.")
        return Shown(prompts, position, show_top or 10, [], 0, "")
    named = chosen(result.sites, sites, component)
    rows = thinned(result.sites, named, stride, named=sites is not None, layers_only=True)
    there = [result.sites[s] for s in named]
    top = min(show_top or (1 if len(abreast(there)) > 1 else 5), result.top_ids.shape[-1])
    return Shown(prompts, position, top, rows, len(named), "layers" if components(there) == ["resid_post"] else "sites")


# -- what every format says --------------------------------------------


def spot(one: LensResult | Attribution, shown: Shown) -> int | None:
    """The token of one prompt that the table is about, an index; None where an attribution read none of it."""
    if isinstance(one, Attribution) and not len(one.tokens):
        return None
    return token_index(len(one.tokens), shown.position, "position")


def after(one: LensResult | Attribution, token: int, show: Any = visible) -> str:
    """Where the numbers were read."""
    return f"after token {one.tokens.position[token]}, {show(one.tokens.text[token], 12)}"


def about(one: LensResult | Attribution, token: int | None, show: Any = visible) -> str:
    """What the table of one prompt is of, beside the prompt itself."""
    if token is None:
        return "no token of it was read"
    return after(one, token, show) + (", in logits" if isinstance(one, Attribution) else "")


def proof(result: LensResult | Attribution) -> str:
    """The certificate, to stand below the numbers that it is about; empty for none."""
    if result.certificate is None:
        return ""
    raw = isinstance(result, LensResult) and not result.normed
    return f"{'the wiring, not the numbers above, is ' if raw else ''}{result.certificate}"


def abreast(sites: Iterable[Site]) -> list[str]:
    """The components that stand side by side, if they are several; others have rows of their own."""
    return [name for name in components(sites) if name not in ("embed", "head_out")]


def stream_of(beside: list[str]) -> str | None:
    return next((name for name in ("resid_post", "resid_pre", "resid_mid") if name in beside), None)


def probability(logprob: float) -> str:
    """A probability in three figures, however small.

    >>> probability(math.log(0.7725)), probability(math.log(0.00012))
    ('0.772', '1.2e-04')
    """
    p = math.exp(logprob) if not math.isnan(logprob) else math.nan
    return f"{p:.3f}" if math.isnan(p) or p >= 0.001 else f"{p:.1e}"


def whole(text: str) -> str:
    """All of a text as `visible` shows it."""
    return visible(text, len(text) * 10 + 1)


def prompt_end(prompt: str, width: int = 60) -> str:
    """The end of a prompt: what was read last is what matters."""
    shown = whole(prompt).replace("·", " ")
    return shown if len(shown) <= width else "…" + shown[1 - width :]
