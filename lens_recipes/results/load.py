"""`load_result`: read a result of any kind from its file."""

from __future__ import annotations

import os

from lens_recipes.results.attribution import Attribution
from lens_recipes.results.lens import LensResult
from lens_recipes.results.patch_map import PatchMap
from lens_recipes.results.survey import Survey
from lens_recipes.views import files


def load_result(path: str | os.PathLike[str]) -> LensResult | Attribution | PatchMap | Survey:
    """Read what `save` wrote, whichever result it is.

    Raises:
        ValueError: a name that does not end in .json or .npz.
        LensError: the file is missing, truncated, corrupt, of a newer version, or something else.
    """
    others = {files.PATCH_MAP.name: PatchMap.load, files.SURVEY.name: Survey.load}
    return files.load_any(path, (LensResult, Attribution), others)
