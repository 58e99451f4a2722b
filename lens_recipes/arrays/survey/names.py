"""What the metrics of a survey are called, and how their numbers are written."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lens_recipes.arrays.survey.metrics import WITHOUT_ANSWER
from lens_recipes.caller import argument

MAX_FIXED = 1e5  # a larger number of nats is written with an exponent


class MetricName(NamedTuple):
    """What a metric is called.

    Attributes:
        name: What a caller passes.
        title: What sentences, titles and axes call it.
        heading: Its column in a table.
        unit: "share", "rank", "nats" or "" for a plain number.
    """

    name: str
    title: str
    heading: str
    unit: str

    @property
    def has_control(self) -> bool:
        """Whether it looks at the answer, so that another one can stand in its place."""
        return self.name not in (*WITHOUT_ANSWER, "decided")

    @property
    def axis_title(self) -> str:
        """The title of an axis of values, with what an axis must say."""
        if self.unit == "nats":
            return f"{self.title} (nats)"
        if self.unit == "rank":
            return f"{self.title} (log scale, 0 is the top)"
        return self.title

    def number(self, value: float) -> str:
        """Return one number as text: shares in per cent; a dash for none.

        >>> find_name("accuracy@1").number(0.423), find_name("rank").number(1234.0)
        ('42%', '1,234')
        """
        if math.isnan(value):
            return "–"
        text = self._digits(value)
        return text.removeprefix("-") if text.strip("-0.%") == "" else text

    def _digits(self, value: float) -> str:
        """Return a number as text, perhaps with a sign before nothing but zeros."""
        if self.unit == "share":
            return f"{100 * value:.0f}%"
        if self.unit == "rank":
            return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
        if abs(value) >= MAX_FIXED:
            return f"{value:.2g}"
        return f"{value:.2f}"

    def interval(self, low: float, high: float) -> str:
        """Return the ends of an interval as text, in brackets; empty where there is none.

        >>> find_name("accuracy@1").interval(0.3, 0.55)
        '[30, 55]'
        """
        if math.isnan(low) or math.isnan(high):
            return ""
        return f"[{self.number(low).rstrip('%')}, {self.number(high).rstrip('%')}]"

    def with_interval(self, value: float, low: float, high: float) -> str:
        """Return a number with its interval as text: "42% [30, 55]"."""
        return f"{self.number(value)} {self.interval(low, high)}".rstrip()


_ENTRIES = (
    MetricName("accuracy@1", "accuracy@1", "acc@1", "share"),
    MetricName("accuracy@5", "accuracy@5", "acc@5", "share"),
    MetricName("accuracy@10", "accuracy@10", "acc@10", "share"),
    MetricName("rank", "median rank", "median rank", "rank"),
    MetricName("reciprocal_rank", "mean reciprocal rank", "MRR", ""),
    MetricName("logprob", "log-probability", "log p", "nats"),
    MetricName("prob", "probability", "p", ""),
    MetricName("logit_diff", "logit difference", "logit diff", "nats"),
    MetricName("entropy", "entropy", "entropy", "nats"),
    MetricName("kl", "KL to the output", "KL", "nats"),
    MetricName("agreement", "agreement with the output", "agrees", "share"),
    MetricName("emerged", "emerged", "emerged", "share"),
    MetricName("decided", "decided", "decided", "share"),
)

NAMES = {entry.name: entry for entry in _ENTRIES}


def find_name(metric: Any, parameter: str = "metric") -> MetricName:
    """Return what a metric is called.

    Args:
        metric: What a caller passes.
        parameter: What the caller calls it, for the message.

    Raises:
        ValueError: no such metric.
    """
    if not isinstance(metric, str) or metric not in NAMES:
        known = ", ".join(map(repr, NAMES))
        raise ValueError(f"{argument(parameter, metric)} is unknown: accepted are {known}.")
    return NAMES[metric]


def control_in_words(control: str | None) -> str:
    """Return what a control is, in words."""
    if control == "shuffle":
        return "another item's answer, of the same group"
    return "a random token about as frequent"
