"""`PatchMapArrays`: what each cell of a run brings along when it is copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.statistics.resampling import Resampling
from lens_recipes.arrays.text import visible_token
from lens_recipes.terminal import one_line

UNITS = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "mixer_out",
    "head_out",
    "layer_component",
)
DIRECTIONS = ("denoise", "noise")
METRICS = ("logit_diff", "logprob", "prob", "rank")
METHODS = ("exact", "gradient")
AT_LAYER = "logit_diff at layer "  # then its number: what a lens reads there

RESAMPLES = 2000  # of the bootstrap

Array = NDArray[np.floating[Any]]


class LeftOut(NamedTuple):
    """A pair that is not in a map.

    Attributes:
        pair: Its number among those that were passed.
        reason: Why.
    """

    pair: int
    reason: str


class Interval(NamedTuple):
    """The bootstrap interval of each cell's mean, `[row, column]`."""

    low: Array
    high: Array


class Verified(NamedTuple):
    """Cells of an approximation that were run exactly.

    Attributes:
        cells: Row and column of each, the largest first.
        exact: The mean recovery that each really has.
        approximate: What the approximation says.
        correlation: Pearson's, between the two; NaN for fewer than three cells.
    """

    cells: list[tuple[int, int]]
    exact: list[float]
    approximate: list[float]
    correlation: float


class PatchProof(NamedTuple):
    """What a map's own runs prove; NaN where it was not measured.

    Attributes:
        site_error: How far what stands at a patched cell is from what was asked, relative, at most.
        nothing_error: How far the metric is from the baseline where a run is patched into itself,
            in logits, at most; 0 is bit for bit.
        everything_error: How far the recovery is from 1 where all positions of the first layer's
            stream are patched, at most.
    """

    site_error: float
    nothing_error: float
    everything_error: float

    def __str__(self) -> str:
        nothing = f"within {self.nothing_error:.0e} logits"
        if self.nothing_error == 0:
            nothing = "bit for bit"
        sentence = (
            f"patched cells hold what was asked (error {self.site_error:.0e}); patching nothing "
            f"gives the baseline {nothing}"
        )
        if np.isfinite(self.everything_error):
            sentence += f"; patching everything recovers 1 within {self.everything_error:.0e}"
        return sentence


@dataclass(frozen=True, eq=False)
class PatchMapArrays:
    """The numbers of a patch map; `PatchMap` adds what shows and saves them."""

    unit: str
    metric: str
    direction: str
    method: str
    layers: list[int]
    columns: list[str]
    column_tokens: list[tuple[str, str]]
    values: NDArray[np.float32]
    logit_diffs: NDArray[np.float32]
    clean: NDArray[np.float32]
    corrupt: NDArray[np.float32]
    clean_diffs: NDArray[np.float32]
    corrupt_diffs: NDArray[np.float32]
    is_causal: NDArray[np.bool_]
    pairs: list[int]
    left_out: list[LeftOut]
    clean_prompts: list[str]
    corrupt_prompts: list[str]
    targets: list[str]
    againsts: list[str]
    proof: PatchProof | None
    verified: Verified | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    # -- what a cell brings back -----------------------------------------

    @cached_property
    def recoveries(self) -> NDArray[np.float64]:
        """Return the recovery of each pair, `[pair, row, column]`: 0 is no effect, 1 the whole.

        NaN where a layer has no such cell. Of ranks, it is that of log10(rank + 1).
        """
        base, source = self.corrupt, self.clean
        if self.direction == "noise":
            base, source = source, base
        start = scaled(base, self.metric)[:, None, None]
        whole = scaled(source, self.metric)[:, None, None] - start
        with np.errstate(divide="ignore", invalid="ignore"):
            return (scaled(self.values, self.metric) - start) / whole

    @cached_property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean recovery over pairs, `[row, column]`."""
        return mean_over_pairs(self.recoveries)

    @cached_property
    def standard_error(self) -> NDArray[np.float64]:
        """Return the standard error of each mean, `[row, column]`; NaN for a single pair."""
        counts = np.isfinite(self.recoveries).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = (self.recoveries - self.mean) ** 2
            variance = np.nansum(squares, axis=0) / (counts - 1)
            error = np.sqrt(variance / counts)
        return np.where(counts > 1, error, np.nan)

    @cached_property
    def interval(self) -> Interval:
        """Return the 95 % bootstrap interval of each mean; NaN for fewer than five pairs.

        Pairs are drawn with replacement, always alike.
        """
        numbers = Resampling(len(self.pairs), n_resamples=RESAMPLES).mean(self.recoveries)
        return Interval(numbers.low, numbers.high)

    @cached_property
    def flipped(self) -> NDArray[np.float64]:
        """Return the share of pairs whose answer each cell turns to the other one, `[row, column]`.

        NaN where that is not known.
        """
        base = self.clean_diffs if self.direction == "noise" else self.corrupt_diffs
        turned = np.sign(self.logit_diffs) == -np.sign(base)[:, None, None]
        is_known = np.isfinite(self.logit_diffs)
        return mean_over_pairs(np.where(is_known, turned, np.nan).astype(np.float64))

    def largest(self, n: int = 5) -> list[tuple[int, int]]:
        """Return row and column of the n cells of the largest |mean recovery|, the largest first.

        Cells that can do nothing are left out.
        """
        sizes = np.where(self.is_causal & np.isfinite(self.mean), np.abs(self.mean), -1).ravel()
        order = np.argsort(-sizes, kind="stable")[:n]
        n_columns = len(self.columns)
        cells = []
        for index in order.tolist():
            if sizes[index] >= 0:
                cells.append((index // n_columns, index % n_columns))
        return cells

    # -- words -----------------------------------------------------------

    def column_name(self, column: int) -> str:
        """Return a column in words: "position 3 (·France→·Spain)", "head 4", "mlp_out"."""
        name = self.columns[column]
        if self.unit == "head_out":
            return f"head {name}"
        if self.unit == "layer_component":
            return name
        texts = self.column_text(column)
        noun = "position " if name.lstrip("−").isdecimal() else ""
        return f"{noun}{name}" + (f" ({texts})" if texts else "")

    def column_text(self, column: int) -> str:
        """Return the tokens of a column: "·of", or "·France→·Spain"; empty if pairs differ."""
        if not self.column_tokens:
            return ""
        clean, corrupt = self.column_tokens[column]
        if not clean and not corrupt:
            return ""
        shown = visible_token(clean)
        return shown if clean == corrupt else f"{shown}→{visible_token(corrupt)}"

    def cell_name(self, row: int, column: int) -> str:
        """Return a cell in words: "layer 12, position 3", "L12H4"."""
        if self.unit == "head_out":
            return f"L{self.layers[row]}H{self.columns[column]}"
        if self.unit == "layer_component":
            return f"{self.columns[column]} of layer {self.layers[row]}"
        return f"{self.unit} of layer {self.layers[row]}, {self.column_name(column)}"

    @property
    def is_approximate(self) -> bool:
        """Tell whether the numbers are an approximation by gradients."""
        return self.method == "gradient"

    @property
    def mark(self) -> str:
        """Return what every view must say beside the numbers; empty when nothing is wrong."""
        return "APPROXIMATION (gradient)" if self.is_approximate else ""

    @property
    def size(self) -> str:
        """Return the numbers of cells and pairs, in words."""
        n_left = len(self.left_out)
        left = f" ({n_left} left out)" if n_left else ""
        pairs = "1 pair" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs"
        return f"{len(self.layers)} × {len(self.columns)} cells, {pairs}{left}"

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        model = one_line(str(self.provenance.get("model", "?")))
        warning = f"; {self.mark}" if self.mark else ""
        return f"PatchMap({model}, {self.unit}, {self.direction}: {self.size}{warning})"


def is_metric(name: Any) -> bool:
    """Tell whether a map can be of this metric."""
    return name in METRICS or layer_of_metric(name) is not None


def layer_of_metric(name: Any) -> int | None:
    """Return the layer of "logit_diff at layer 20"; None for a metric of the model's output."""
    if not isinstance(name, str) or not name.startswith(AT_LAYER):
        return None
    number = name.removeprefix(AT_LAYER)
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 6 else None


def scaled(values: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Return numbers of a metric on the scale on which recovery is taken."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.log10(numbers + 1) if metric == "rank" else numbers


def mean_over_pairs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis of the numbers that are there; NaN for none."""
    is_there = np.isfinite(values)
    counts = is_there.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(is_there, values, 0).sum(0) / np.where(counts > 0, counts, np.nan)
