"""The config.json that other tools put beside a lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_recipes.lenses.files.checks import read_json
from lens_recipes.views.files.plain_file import open_plain_file

MAX_CONFIG_BYTES = 2**20


def read_config(path: Path) -> dict[str, Any]:
    """Return what a config.json holds.

    Raises:
        LensError: it is no plain file.
        OSError, ValueError: it is not there, too long, or no JSON object.
    """
    with open_plain_file(path) as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError("its config.json is longer than that of any lens")
    return read_json(str(text, "utf-8"), "its config.json")
