"""lens-recipes: what a language model predicts at every layer, with proof that it was read right.

>>> import lens_recipes as lr
>>> model = lr.load("smollm2")
>>> result = lr.logit_lens(model, "The capital of France is", targets=" Paris")
>>> print(result)

The names below are imported when they are first used, so that `lens-recipes --help` does not wait for torch. A file
that would share its name with its function starts with an underscore.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._anatomy import Anatomy, anatomy
    from ._logit_lens import logit_lens
    from ._table import table
    from .certificate import Certificate
    from .errors import LensError
    from .models import load
    from .plot import heatmap, write_html
    from .result import LensResult, Site, Tokens

__all__ = [
    "Anatomy",
    "Certificate",
    "LensError",
    "LensResult",
    "Site",
    "Tokens",
    "anatomy",
    "heatmap",
    "load",
    "logit_lens",
    "table",
    "write_html",
]

_HOME = {
    "Anatomy": "_anatomy",
    "anatomy": "_anatomy",
    "logit_lens": "_logit_lens",
    "table": "_table",
    "LensError": "errors",
    "load": "models",
    "heatmap": "plot",
    "write_html": "plot",
    "Certificate": "certificate",
    "LensResult": "result",
    "Site": "result",
    "Tokens": "result",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
