"""What results can do with their files: those of one run, and those measured over several."""

from __future__ import annotations

import importlib
import os
from typing import Any, Self

from lens_recipes.views import files
from lens_recipes.views.files.measured import load_measured, save_measured


class SavedResult:
    """What a result of one run can do with its file."""

    def save(self: Any, path: str | os.PathLike[str]) -> None:
        """Write `.json` (readable, NaN as null) or `.npz` (small), whole or not at all, no pickle.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file cannot be written.
        """
        files.save(self, path)

    def verify(
        self,
        model: Any,
        *,
        remote: bool | str | None = None,
        lens: Any = None,
        images: Any = None,
    ) -> Self:
        """Run this again on a model, and return it with the certificate of that run.

        What a file holds is a claim: its certificate says "as saved". This proves it.

        Args:
            model: What `load()` returns: the model that the result is said to be of.
            remote: Where it runs, as for `logit_lens`.
            lens: The lens that it was read with, where it cannot be loaded from where it was then.
            images: Those of its prompts, in the forms of `logit_lens`, if it is of prompts with
                images.

        Raises:
            LensError: the model says something else; the message names the first number that
                differs by more than rounding. Or the result keeps too little to run it again.
        """
        # The public function: it runs recipes, which are built upon results.
        verify = importlib.import_module("lens_recipes").verify
        return verify(self, model, remote=remote, lens=lens, images=images)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote, exactly.

        Raises:
            ValueError: a name that does not end in .json or .npz.
            LensError: the file is missing, truncated, corrupt, or something else.
        """
        return files.load(path, cls)


class MeasuredResult:
    """What was measured over several runs, and is kept as text alone."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.json` file, whole or not at all.

        Raises:
            ValueError: a name that does not end in .json.
            LensError: the file cannot be written.
        """
        save_measured(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises:
            LensError: the file is missing, damaged, or something else.
        """
        return load_measured(path, cls)
