"""The data that `report.js` reads, as classes: it knows the fields by these names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class PageSite:
    """A site: its label on an axis, its name in a sentence, and where it is."""

    label: str
    place: str
    layer: int | None
    component: str


@dataclass
class PagePrompt:
    """The end of a prompt, which tokens of the page are its own, and its targets."""

    text: str
    start: int
    stop: int
    targets: list[int]
    images: list[PageImage]


@dataclass
class PageTokens:
    """The token axis of the page; `next` is an index into the page's ids."""

    text: list[str]
    position: list[int]
    next: list[int]
    generated: list[bool]


@dataclass
class PageImage:
    """An image of a prompt: its words and size, its bytes as an address, and what is drawn on it.

    `address` is empty where the page has no picture. `patches` are indices into the tokens of the
    page, and `boxes`, one for each, [left, top, right, bottom] in pixels.
    """

    name: str
    width: int
    height: int
    address: str
    note: str
    patches: list[int]
    boxes: list[list[float]]


@dataclass
class PageMetric:
    """How a metric is named and coloured; `inks` are the colours of words along its scale."""

    label: str
    about: str
    colors: Any
    inks: tuple[str, ...]
    range: tuple[float | None, float | None]
    logarithmic: bool
    two_sided: bool
    low_is_better: bool


@dataclass
class PackedArray:
    """An array as little-endian bytes in base64; `type` is "f4", "u2" or "i4"."""

    type: str
    shape: list[int]
    base64: str


@dataclass
class PageLens:
    """What one lens says: its name, and the arrays of its result."""

    name: str
    arrays: dict[str, PackedArray]


@dataclass
class PageDifference:
    """The colours of a difference of two lenses, and of the words on them."""

    colors: Any
    inks: tuple[str, ...]


@dataclass
class PageData:
    """All that the script reads.

    Attributes:
        main: The component that is shown first.
        along: The sites along which a token is followed, layer after layer; empty without an order.
        answers: Whether the model answers at each token; vectors have no answers.
        output_site: The site that is the model's own output, −1 for none.
        ids: The tokens that the page names. In `prompts`, `tokens` and the arrays of `lenses` a
            token is its index in this list, −1 for none.
    """

    sites: list[PageSite]
    components: list[str]
    main: str
    along: list[int]
    line_axis: str
    answers: bool
    output_site: int
    prompts: list[PagePrompt]
    tokens: PageTokens
    ids: list[int]
    texts: list[str]
    metrics: dict[str, PageMetric]
    rank_ticks: dict[str, Any]
    colors: Any
    dashes: Any
    markers: Any
    difference: PageDifference
    lenses: list[PageLens]
