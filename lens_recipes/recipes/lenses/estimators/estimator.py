"""`Estimator`: what one kind of lens needs of a text, and what it makes of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lens_recipes.lenses.solve.solution import Solution
from lens_recipes.lenses.solve.solve import solve
from lens_recipes.recipes.lenses.text.rows import Row, RowSets
from lens_recipes.run.request.request import Request
from lens_recipes.run.run import RecipeRun


@dataclass(frozen=True)
class FitTask:
    """What is to be fitted.

    Attributes:
        request: The model, checked, and where it runs.
        layers: The streams that get a transport, ascending; `EMBEDDING` (−1) is the one before
            block 0.
        seed: For whatever a kind draws by itself.
        settings: What else the caller asked of this kind.
    """

    request: Request
    layers: list[int]
    seed: int
    settings: Mapping[str, Any]


def seconds_of(work: Callable[[], Any]) -> float:
    """Return how long something takes that has been done before: the shorter of two times."""
    work()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


class Estimator(ABC):
    """One kind of lens.

    The rows of each half of the text become batches. What is computed of a batch are sums, which
    are added up, kept in the fit's file, and merged with those of other texts. At the end they, and
    perhaps the rows themselves, become transports.

    Attributes:
        kind: The kind of lens.
        runs_remotely: Whether it runs on a server, which gives no gradients.
        first_position: Positions before this one are not fitted.
        reads_embedding: Whether the stream before block 0 gets a transport, too.
        default_tokens: On how much text it is fitted where the caller does not say.
        accepts: Names of the settings that it takes.
        solves: Whether its closed form takes solving, and not a mean alone.
        trains: Whether more than a closed form comes after the sums, so that they are saved first.
    """

    kind: ClassVar[str]
    runs_remotely: ClassVar[bool] = False
    first_position: ClassVar[int] = 0
    reads_embedding: ClassVar[bool] = True
    default_tokens: ClassVar[int] = 20_000
    accepts: ClassVar[tuple[str, ...]] = ()
    solves: ClassVar[bool] = False
    trains: ClassVar[bool] = False

    def __init__(self, task: FitTask) -> None:
        """Keep what is to be fitted.

        Raises:
            ValueError: a setting that this kind does not have.
        """
        self.task = task
        unknown = [name for name in task.settings if name not in self.accepts]
        if unknown:
            accepted = ", ".join(self.accepts) or "none"
            raise ValueError(
                f'kind="{self.kind}" has no setting {", ".join(unknown)}; accepted are: {accepted}.'
            )

    @property
    def shortest_row(self) -> int:
        """How many tokens a row must have for anything to be fitted on it."""
        return 1

    @abstractmethod
    def batches(self, rows: Sequence[Row]) -> list[Any]:
        """Return rows of one half of the text as batches."""

    @abstractmethod
    def n_tokens(self, batch: Any) -> int:
        """Return how many tokens of a batch run through the model, which says how long it takes."""

    @abstractmethod
    def sums_of(self, batch: Any) -> dict[str, Tensor]:
        """Return what is added up of a batch, by names of this kind's own."""

    @abstractmethod
    def run(self, batches: list[Any]) -> RecipeRun[Any]:
        """Return all batches as one run, for an estimate of what it costs."""

    @abstractmethod
    def seconds(self, batches: list[Any]) -> float:
        """Return how long the batches may take in this process: some of it is tried."""

    def solution(self, sums: Mapping[str, Tensor], rows: RowSets) -> Solution:
        """Return the transports that the sums come to.

        Args:
            sums: Of both halves, by names such as "a.xx".
            rows: All rows, for a kind that reads them again.
        """
        return solve(self.kind, sums, self.task.layers)
