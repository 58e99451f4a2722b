"""The sentences and number formats that tables, figures, pages and summaries share.

Whatever two views say is said here once, and therefore in the same words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Part, Tokens
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.words import edits_in_words
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import find_metric
from lens_recipes.arrays.text import legible, visible_token

# Makes a text legible in one kind of view, cut to so many characters. `visible_token` is one.
ShowText = Callable[[str, int], str]

PART_WIDTH = 40  # characters of the name of a part
TOKEN_WIDTH = 12  # characters of a token in a sentence
MIN_FIXED_LOGIT = 0.095  # two decimals show one digit of a smaller logit, or none
MIN_FIXED_ERROR = 0.005  # two decimals of a smaller standard error would be zeros
MAX_FIXED_LOGIT = 1e6  # a larger logit is written with an exponent
MIN_FIXED_PROBABILITY = 0.001  # three decimals of a smaller probability would be zeros


# -- numbers -----------------------------------------------------------


def format_value(value: float, metric: str) -> str:
    """Return a value of a metric, without its unit: ranks are whole numbers, others rounded.

    >>> format_value(12345, "rank"), format_value(0.123456, "prob")
    ('12,345', '0.1235')
    """
    return find_metric(metric).format_value(value)


def probability(logprob: float) -> str:
    """Return the probability of a log-probability (in nats) as text, however small it is.

    >>> probability(math.log(0.7725)), probability(math.log(0.00012)), probability(math.nan)
    ('0.772', '1.2e-04', 'nan')
    """
    value = math.exp(logprob)
    if value < MIN_FIXED_PROBABILITY:
        return f"{value:.1e}"
    return f"{value:.3f}"


def signed(value: float | np.floating[Any]) -> str:
    """Return logits with their sign, small and huge ones in two digits.

    >>> signed(1.234), signed(-0.00123), signed(0), signed(1e9), signed(math.nan)
    ('+1.23', '-0.0012', '+0.00', '+1e+09', 'nan')
    """
    number = float(value)
    if math.isnan(number):
        return "nan"
    if number == 0 or MIN_FIXED_LOGIT <= abs(number) < MAX_FIXED_LOGIT:
        return f"{number:+.2f}"
    return f"{number:+.2g}"


def mean_and_error(mean: float, standard_error: float) -> tuple[str, str]:
    """Return a mean in logits and its standard error as text; a dash for no standard error.

    >>> mean_and_error(2.508, 0.3287), mean_and_error(1.0, math.nan)
    (('+2.51', '0.33'), ('+1.00', '–'))
    """
    if math.isnan(standard_error):
        return signed(mean), "–"
    if 0 < standard_error < MIN_FIXED_ERROR or standard_error >= MAX_FIXED_LOGIT:
        return signed(mean), f"{standard_error:.1e}"
    return signed(mean), f"{standard_error:.2f}"


def mean_in_words(mean: float, standard_error: float, positive: int, n: int) -> str:
    """Return a mean in logits with its standard error, and in how many prompts it is positive.

    >>> mean_in_words(2.508, 0.3287, 13, 14)
    '+2.51 ± 0.33 (13 of 14)'
    """
    shown_mean, error = mean_and_error(mean, standard_error)
    return f"{shown_mean} ± {error} ({positive} of {n})"


def minus(number: str) -> str:
    """Return a number as text with the minus sign that a figure's axes have, for a hyphen.

    >>> minus("-1.23")
    '−1.23'
    """
    return number.replace("-", "\u2212")


def percentage(part: int, whole: int) -> str:
    """Return a count, and its share of a whole that is not zero.

    >>> percentage(5, 12)
    '5 of 12 (42%)'
    """
    return f"{part} of {whole} ({part / whole:.0%})"


def quantity(number: int, noun: str) -> str:
    """Return a number of things, with the noun in the singular or the plural.

    >>> quantity(1, "token"), quantity(12, "token")
    ('1 token', '12 tokens')
    """
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}s"


# -- texts -------------------------------------------------------------


def whole_text(text: str) -> str:
    r"""Return a whole text, uncut, with its spaces, line breaks and control characters visible.

    >>> whole_text("The capital\nof France")
    'The·capital↵of·France'
    """
    no_limit = len(text) * 10 + 1  # a character without a look of its own is shown by number
    return visible_token(text, no_limit)


def prompt_end(prompt: str, width: int = 60) -> str:
    r"""Return the end of a prompt on one line: a model has just read it, so it matters most.

    >>> prompt_end("The capital\nof France is"), prompt_end("The capital of France is", 12)
    ('The capital↵of France is', '…f France is')
    """
    if prompt.strip(" ") == "":
        shown = whole_text(prompt)
    else:
        # One character more than there is room for shows that there is more. The rest of a prompt,
        # which may be long, is not looked at.
        shown = legible(prompt[-width - 1 :]).replace("·", " ")
    if len(shown) <= width:
        return shown
    return "…" + shown[1 - width :]


def after_token(
    result: LensArrays | AttributionArrays, token_index: int, show: ShowText = visible_token
) -> str:
    """Return after which token the numbers were read, such as "after token 4, ·is".

    Of an image it is a patch: "after token 12, patch 3, 5 of image 0".
    """
    text = patch_name(result.tokens, token_index) or show(
        result.tokens.text[token_index], TOKEN_WIDTH
    )
    return f"after token {result.tokens.position[token_index]}, {text}"


def patch_name(tokens: Tokens, token_index: int) -> str:
    """Return the row and column of a patch, as "patch 3, 5 of image 0"; empty for other tokens."""
    if tokens.row is None:
        return ""
    columns = (tokens.image, tokens.tile, tokens.row, tokens.column)
    return _name_of_patch(*(int(column[token_index]) for column in columns))  # type: ignore[index]


def _name_of_patch(image: int, tile: int, row: int, column: int) -> str:
    """Return the name of a patch; empty for a token without a row."""
    if row < 0:
        return ""
    of_tile = "" if tile < 0 else f"tile {tile}, "
    return f"patch {row}, {column} of {of_tile}image {image}"


def source_name(result: AttributionArrays, source: int, show: ShowText = visible_token) -> str:
    """Return the token of the first prompt that a head read, of an image its patch."""
    patch = ""
    if result.places:
        place = result.places[0][source]
        patch = _name_of_patch(place.image, place.tile, place.row, place.column)
    return patch or show(result.sources[0][source], TOKEN_WIDTH)


def about_token(
    result: LensArrays | AttributionArrays,
    token_index: int | None,
    show: ShowText = visible_token,
    *,
    with_lens: bool = True,
) -> str:
    """Return what stands beside a prompt above its table.

    Examples: "after token 4, ·is", for an attribution "after token 4, ·is, in logits". A
    `token_index` of None stands for an attribution that read no token of this prompt.
    """
    if token_index is None:
        return "no token of it was read"
    place = after_token(result, token_index, show)
    if isinstance(result, AttributionArrays):
        place += ", in logits"
    return place + lens_beside(result) if with_lens else place


def part_name(result: AttributionArrays, part: Part, show: ShowText = visible_token) -> str:
    """Return the name of a part of one prompt's result, with the token that a head read.

    Examples: "layer 3", "24.mlp_out", "24.head_out.3←5 ·France", of an image
    "24.head_out.3←12 patch 1, 2 of image 0".
    """
    if part.component == "layer":
        return f"layer {part.layer}"
    name = show(str(part), PART_WIDTH)
    if part.source is None or not result.sources:
        return name
    return f"{name} {source_name(result, part.source, show)}"


def part_label(part: Part, show: ShowText = visible_token) -> str:
    """Return the name of a part over several prompts: "L23H4", "24.mlp_out", "layer 3"."""
    if part.component == "layer":
        return f"layer {part.layer}"
    return show(part.short, PART_WIDTH)


def ending(result: LensArrays) -> str:
    """Return how many tokens were written after one prompt, and why the model stopped.

    Example: "12 tokens, finish: length".
    """
    written = int(result.tokens.generated.sum())
    return f"{quantity(written, 'token')}, finish: {result.responses[0].finish}"


def lens_title(result: LensArrays) -> str:
    """Return the lens as a title begins with it: "Logit lens", "Jacobian lens"."""
    name = result.lens.name
    return name[:1].upper() + name[1:]


def lens_beside(result: LensArrays | AttributionArrays) -> str:
    """Return what stands beside the model's name: the lens, or nothing for the logit lens.

    Example: ", linear lens".
    """
    return "" if result.lens.is_logit else f", {result.lens.name}"


def edited(result: LensArrays | AttributionArrays) -> str:
    """Return what every view says of a run that was edited; empty for a plain one.

    Of two edits both are named, of more the first two. What others wrote in it (prompts, names)
    stands on one line and is legible, and each view escapes it as it escapes a token.

    Example: "edited: ablate (to zero) L23H4 at position 4".
    """
    return edits_in_words(shown_edits(result))


def shown_edits(result: LensArrays | AttributionArrays) -> list[Edit]:
    """Return the edits of a run as they are named: where nothing was written, none says when."""
    edits = result.edits
    if result.tokens.generated.any():
        return edits
    return [dataclasses.replace(edit, when="prompt") for edit in edits]


def lens_names(results: Sequence[LensArrays]) -> list[str]:
    """Return a name for the lens of each result, no two of them the same.

    Lenses of one kind are told apart by whether the run was edited, then by where they came from,
    then by their digests, then by numbers. Results of one lens are named by their edits, where
    these differ: "base", "edited: …".
    """
    lenses = [result.lens for result in results]
    is_one_lens = len({(lens.kind, lens.digest) for lens in lenses}) == 1
    if is_one_lens and have_different_edits(results):
        return edit_names(results)
    suffixes = [", edited" if result.edits else "" for result in results]
    candidates = (
        [lens.name for lens in lenses],
        [f"{lens.name} ({lens.source})" if lens.source else lens.name for lens in lenses],
        [lens.named for lens in lenses],
        [f"{lens.name} {number}" for number, lens in enumerate(lenses, start=1)],
    )
    for names in candidates:
        full = [name + suffix for name, suffix in zip(names, suffixes, strict=True)]
        if len(set(full)) == len(full):
            break
    return full


def have_different_edits(results: Sequence[LensArrays]) -> bool:
    """Return whether some results are of runs that were edited in another way, or not at all."""
    first = [edit.to_json() for edit in results[0].edits]
    return any([edit.to_json() for edit in result.edits] != first for result in results[1:])


def edit_names(results: Sequence[LensArrays]) -> list[str]:
    """Return a name for each of some runs: "base", "edited: ablate (to zero) L23H4"."""
    names: list[str] = []
    for result in results:
        name = edited(result) or "base"
        n_alike = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({n_alike + 1})" if n_alike else name)
    return names


def certificate_line(result: LensArrays | AttributionArrays) -> str:
    """Return the certificate as it stands below the numbers; empty where there is none.

    Of a stream that was read without the final norm, the certificate vouches for the wiring alone:
    the line then begins "the wiring, not the numbers above, is certified".
    """
    if result.certificate is None:
        return ""
    if isinstance(result, LensArrays) and not result.normed:
        return f"the wiring, not the numbers above, is {result.certificate}"
    return str(result.certificate)
