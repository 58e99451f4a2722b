"""The timing and the statistics of a generation, as pairs of words and numbers."""

from __future__ import annotations

import math

from rich.table import Table

from lens_recipes.arrays.generation import Statistics, quartiles, settling, statistics
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.views.summaries.trust import before_cannot
from lens_recipes.views.tables.grids import empty_grid
from lens_recipes.views.words import percentage

# The entries of `result.timings` that are seconds, in the order in which they happen, in words.
SECONDS = {
    "load_s": "load the model",
    "tokenise_s": "tokenise",
    "prefill_s": "prefill: the prompt, and the first token",
    "decode_s": "decode: all later tokens",
    "decode_per_token_s": "  for each token",
    "lens_s": "lens",
    "text_s": "ids to text",
}

SAME_PROBABILITY = 1e-6  # a sampler's probability that is this close to the model's is the model's


def timing_table(result: LensArrays) -> Table:
    """Return all of `result.timings` with units, and how long the whole call took."""
    timings = result.timings
    pairs = _empty_pairs()
    for name, words in SECONDS.items():
        if name in timings:
            pairs.add_row(words, duration(timings[name]))
    pairs.add_row("the whole run, without loading", duration(result.provenance.get("seconds")))
    pairs.add_row("tokens read", f"{timings.get('input_tokens') or 0}")
    pairs.add_row("tokens written", f"{timings.get('output_tokens') or 0}")
    speed = timings.get("tokens_per_second")
    pairs.add_row(
        "speed: prefill, decode and lens", "–" if speed is None else f"{speed:.3g} tokens/s"
    )
    return pairs


def duration(seconds: float | None) -> str:
    """Return seconds in a unit that suits them.

    >>> duration(1.2345), duration(0.0678), duration(0.0000123), duration(None)
    ('1.23 s', '67.8 ms', '0.0123 ms', '–')
    """
    if seconds is None:
        return "–"
    if seconds >= 0.9995:  # or else it would be 1e+03 ms
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.3g} ms"


def statistics_table(result: LensArrays) -> Table:
    """Return what a researcher asks first of a generation, over the tokens of all prompts."""
    stats = statistics(result)
    pairs = _empty_pairs()
    pairs.add_row("tokens written", str(stats.tokens))
    if settling(result):
        _add_settling(pairs, result, stats)
    if stats.changes is not None and stats.entropy is not None:
        pairs.add_row("changes of top-1 over the layers", quartiles(stats.changes))
        pairs.add_row("mean entropy at the last layer", f"{stats.entropy:.2f} nats")
    pairs.add_row("written, but not first choice", percentage(stats.not_first, stats.tokens))
    pairs.add_row("mean p of a written token", f"{stats.probability:.3f}")
    if abs(stats.sampler_probability - stats.probability) > SAME_PROBABILITY:
        pairs.add_row("… as the sampler had it", f"{stats.sampler_probability:.3f}")
    pairs.add_row("perplexity of what was written", f"{stats.perplexity:.3g}")
    return pairs


def _add_settling(pairs: Table, result: LensArrays, stats: Statistics) -> None:
    """Add at which layers the model's first choices settled."""
    settled_count = len(stats.layers)
    settled_layers = "nowhere"
    if settled_count > 0:
        settled_layers = f"{quartiles(stats.layers)} {_layers_read(result)}"
    pairs.add_row("first choice settled at layer", settled_layers)
    if stats.undated > 0:
        undated = percentage(stats.undated, settled_count)
        pairs.add_row(f"… or earlier: {before_cannot(result)}", undated)
    pairs.add_row("… only at the last layer read", percentage(stats.last, stats.tokens))
    if settled_count < stats.tokens:
        not_settled = percentage(stats.tokens - settled_count, stats.tokens)
        pairs.add_row("… not by then", not_settled)
    margin = "–" if math.isnan(stats.margin) else f"{stats.margin:.2f} nats"
    pairs.add_row("its margin there, median", margin)


def _layers_read(result: LensArrays) -> str:
    """Return which sites an answer settles along: "of 0–11", or "of the mlp_out of the layers"."""
    series = settling(result)
    first = result.sites[series[0]]
    last_site = result.sites[series[-1]]
    if last_site.component == "resid_post":
        return f"of {first}–{last_site}"
    return f"of the {last_site.component} of the layers"


def _empty_pairs() -> Table:
    """Return a grid of two columns without a header."""
    pairs = empty_grid(header=False)
    pairs.add_column(no_wrap=True)
    pairs.add_column(no_wrap=True)
    return pairs
