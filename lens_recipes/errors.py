"""What a recipe says when it will not go on."""

from __future__ import annotations


class LensError(Exception):
    """The model or the run does not allow a lens that is right.

    A wrong *argument* is a `ValueError`; a `LensError` is about the model (its structure, its weights, where
    they are) or about numbers that failed their own check. The message says what was found and what to do.
    """
