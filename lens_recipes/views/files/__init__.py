"""Files: results and others, complete or absent, exact both ways, and never a pickle."""

from lens_recipes.views.files.atomic import atomic_file, write_text
from lens_recipes.views.files.plain_file import read_text
from lens_recipes.views.files.result_file import as_json, load, load_any, save
from lens_recipes.views.files.strict_json import check_depth, parse_json, parse_object

__all__ = [
    "as_json",
    "atomic_file",
    "check_depth",
    "load",
    "load_any",
    "parse_json",
    "parse_object",
    "read_text",
    "save",
    "write_text",
]
