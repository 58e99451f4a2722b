"""Whether images can be read here: it takes pillow, which is an extra."""

from __future__ import annotations

import importlib.util

from lens_recipes.errors import LensError


def check_pillow() -> None:
    """Raise a LensError unless pillow is installed."""
    if importlib.util.find_spec("PIL") is None:
        raise LensError(
            'images need pillow, which is not installed: pip install "lens-recipes[images]".'
        )
