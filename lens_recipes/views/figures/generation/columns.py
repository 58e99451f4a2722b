"""The columns of `generation_steps`: ranks, side by side for each component."""

from __future__ import annotations

from typing import Any, NamedTuple

from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.outline import BORDER

PANEL_GAP = 0.3  # columns of space between two panels


class RankColumns(NamedTuple):
    """A panel for each component, and in each panel a column for each rank.

    Between two panels there is a narrow column without cells.

    Attributes:
        panels: The components.
        n_ranks: How many tokens each site ranks.
    """

    panels: list[str]
    n_ranks: int

    @property
    def n_columns(self) -> int:
        """The number of columns, those between the panels included."""
        return len(self.edges) - 1

    @property
    def edges(self) -> list[float]:
        """The left edge of each column on the x axis, and the right edge of the last."""
        edges = []
        for panel in range(len(self.panels)):
            edges += [self.middle(panel, rank) - 0.5 for rank in range(self.n_ranks + 1)]
        return edges

    @property
    def width(self) -> float:
        """The width of all columns, in columns."""
        edges = self.edges
        return edges[-1] - edges[0]

    def column_number(self, panel: int, rank: int) -> int:
        """Return the number of a column, from 0."""
        return panel * (self.n_ranks + 1) + rank

    def middle(self, panel: int, rank: int) -> float:
        """Return the middle of a column on the x axis."""
        return panel * (self.n_ranks + PANEL_GAP) + rank

    def axis(self) -> dict[str, Any]:
        """Return the x axis, with a tick in the middle of each column of cells."""
        middles = []
        labels = []
        for panel, component in enumerate(self.panels):
            for rank in range(self.n_ranks):
                middles.append(self.middle(panel, rank))
                label = str(rank + 1)
                if rank == self.n_ranks // 2 and self.panels != ["resid_post"]:
                    label += f"<br>{escape_plotly(component)}"
                labels.append(label)
        edges = self.edges
        return {
            "title": {"text": "the layer's top tokens (1 is what it would have written)"},
            "tickvals": middles,
            "ticktext": labels,
            "range": [edges[0] - BORDER, edges[-1] + BORDER],
            "showgrid": False,
            "zeroline": False,
        }
