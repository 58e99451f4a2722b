"""What a lens result says at one site after one token: predictions, numbers, ranks of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import measured_metrics
from lens_recipes.arrays.metrics.entry import Metric


class Prediction(NamedTuple):
    """One of the most likely tokens: its id, its text and its log-probability (nats)."""

    token_id: int
    text: str
    logprob: float


class TargetReading(NamedTuple):
    """What becomes of a target: its text, its rank (0 is the top), its log-probability (nats)."""

    text: str
    rank: int
    logprob: float


def shown_metrics(result: LensArrays) -> list[Metric]:
    """Return the metrics that have a column in a table of a result, from left to right."""
    return [metric for metric in measured_metrics() if metric.heading and metric.fits(result)]


@dataclass(frozen=True)
class SiteReading:
    """What a result says at one site after one token.

    Attributes:
        result: A result of one prompt, or of vectors.
        site_index: Which of `result.sites`.
        token_index: Which of `result.tokens`.
    """

    result: LensArrays
    site_index: int
    token_index: int

    @property
    def predicts_answer(self) -> bool:
        """Return whether the site's top-1 is what the model answers in the end."""
        return bool(self.result.final_ranks[self.site_index, self.token_index] == 0)

    @property
    def is_readable(self) -> bool:
        """Return whether the site says more of the model's output than a uniform guess."""
        return bool(self.result.readable[self.site_index, self.token_index])

    def value(self, metric: Metric) -> float:
        """Return the value of a metric that a recipe measures, in the metric's unit."""
        values = getattr(self.result, metric.array)
        return float(values[self.site_index, self.token_index])

    def predictions(self, limit: int | None = None) -> list[Prediction]:
        """Return the most likely tokens, at most `limit` of them; None for all in the result."""
        token_ids = self.result.top_ids[self.site_index, self.token_index, :limit]
        logprobs = self.result.top_logprobs[self.site_index, self.token_index, :limit]
        predictions = []
        for token_id, logprob in zip(token_ids.tolist(), logprobs.tolist(), strict=True):
            predictions.append(Prediction(token_id, self.result.text(token_id), logprob))
        return predictions

    def targets(self) -> list[TargetReading]:
        """Return the rank and the log-probability of each target."""
        target_ids = self.result.target_ids[0]
        ranks = self.result.target_ranks[self.site_index, self.token_index]
        logprobs = self.result.target_logprobs[self.site_index, self.token_index]
        readings = []
        for target_id, rank, logprob in zip(target_ids, ranks, logprobs, strict=True):
            text = self.result.text(target_id)
            readings.append(TargetReading(text, int(rank), float(logprob)))
        return readings
