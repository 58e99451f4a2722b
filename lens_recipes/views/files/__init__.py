"""Files: results and others, complete or absent, exact both ways, and never a pickle."""

from lens_recipes.views.files.atomic import atomic_file, write_text
from lens_recipes.views.files.patch_map_file import (
    PATCH_MAP,
    load_patch_map,
    patch_map_json,
    save_patch_map,
)
from lens_recipes.views.files.plain_file import read_text
from lens_recipes.views.files.result_file import as_json, load, load_any, save
from lens_recipes.views.files.strict_json import check_depth, parse_json, parse_object
from lens_recipes.views.files.survey_file import SURVEY, load_survey, save_survey, survey_json

__all__ = [
    "PATCH_MAP",
    "SURVEY",
    "as_json",
    "atomic_file",
    "check_depth",
    "load",
    "load_any",
    "load_patch_map",
    "load_survey",
    "parse_json",
    "parse_object",
    "patch_map_json",
    "read_text",
    "save",
    "save_patch_map",
    "save_survey",
    "survey_json",
    "write_text",
]
