"""Results as files: complete or absent, exact both ways, and never a pickle."""

from lens_recipes.views.files.atomic import atomic_file, write_text
from lens_recipes.views.files.result_file import as_json, load, load_any, save

__all__ = ["as_json", "atomic_file", "load", "load_any", "save", "write_text"]
