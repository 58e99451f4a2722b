"""A figure that a notebook keeps when it is made a page."""

from __future__ import annotations

import os
from typing import Any

import plotly.graph_objects as go
import plotly.io

# What plotly alone gives a notebook: the numbers, for a program that knows plotly.
PLOTLY_DATA = "application/vnd.plotly.v1+json"
HTML = "text/html"


class Figure(go.Figure):
    """A plotly figure that shows itself to a notebook as HTML as well.

    In a notebook plotly gives its own kind of data alone, which `nbconvert --to html` leaves out.
    The HTML has the figure, and takes plotly.js (4.5 MB) from a CDN, so that a page of many figures
    is small; the page then needs a network. Whoever chooses a renderer of plotly, by the variable
    PLOTLY_RENDERER or by an argument of `show`, gets what that renderer gives.
    """

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show the figure where plotly would, in a notebook as HTML as well."""
        if args or kwargs or not self._shown_with_html():
            super().show(*args, **kwargs)

    def _ipython_display_(self) -> None:
        """Show the figure at the end of a cell."""
        if not plotly.io.renderers.render_on_display or not self._shown_with_html():
            super()._ipython_display_()

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the figure in each form that a notebook may choose from."""
        bundle: dict[str, Any] = super()._repr_mimebundle_(*args, **kwargs) or {}
        chosen = os.environ.get("PLOTLY_RENDERER")
        if PLOTLY_DATA in bundle and HTML not in bundle and not chosen:
            bundle[HTML] = self.to_html(full_html=False, include_plotlyjs="cdn", auto_play=False)
        return bundle

    def _shown_with_html(self) -> bool:
        """Show the figure in a notebook, and return whether there is one that keeps HTML."""
        bundle = self._repr_mimebundle_()
        if not {PLOTLY_DATA, HTML} <= bundle.keys():
            return False
        try:
            from IPython.display import display
        except ImportError:
            return False
        display(bundle, raw=True)
        return True
