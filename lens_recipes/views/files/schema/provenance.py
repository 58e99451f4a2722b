"""The provenance in a file: what the views read of it is what a run writes; other keys stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.arrays.survey.arrays import CONTROLS
from lens_recipes.arrays.survey.names import NAMES
from lens_recipes.views.files.schema.checks import Sizes, is_count, is_number, read_dict
from lens_recipes.views.files.schema.used_lens import check_used_lens

MAX_RESAMPLES = 10**7  # far more than an interval needs
MAX_QUANTITY = 1e15  # seconds, tokens or tokens per second: beyond what any run takes


def is_text(value: Any) -> bool:
    """Tell whether a value is a text."""
    return isinstance(value, str)


def is_text_or_nothing(value: Any) -> bool:
    """Tell whether a value is a text, or null."""
    return value is None or isinstance(value, str)


def is_object(value: Any) -> bool:
    """Tell whether a value is a JSON object."""
    return isinstance(value, dict)


def is_truth_value(value: Any) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def is_quantity(value: Any) -> bool:
    """Tell whether a value measures something: seconds, or how many."""
    return is_number(value) and 0 <= value < MAX_QUANTITY


def are_counts(value: Any) -> bool:
    """Tell whether a value is a list of whole numbers."""
    return isinstance(value, list) and all(map(is_count, value))


def are_texts(value: Any) -> bool:
    """Tell whether a value is a JSON object of texts."""
    return isinstance(value, dict) and all(map(is_text, value.values()))


def are_timings(value: Any) -> bool:
    """Tell whether a value is a JSON object of quantities, of which some were not measured."""
    if not isinstance(value, dict):
        return False
    return all(quantity is None or is_quantity(quantity) for quantity in value.values())


def are_edits(value: Any) -> bool:
    """Tell whether a value is a list of edits."""
    if not isinstance(value, list):
        return False
    try:
        for fields in value:
            str(edit_from_json(fields))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False
    return True


def are_draws(value: Any) -> bool:
    """Tell whether a value says how the intervals of a survey are made."""
    if not isinstance(value, dict) or value.keys() != {"n_resamples", "confidence", "seed"}:
        return False
    n_resamples, confidence = value["n_resamples"], value["confidence"]
    is_number_of = is_count(n_resamples) and 100 <= n_resamples <= MAX_RESAMPLES
    return is_number_of and is_number(confidence) and 0 < confidence < 1 and is_count(value["seed"])


def are_controls(value: Any) -> bool:
    """Tell whether a value says what stood in place of edits, and from how many sites it came."""
    if not isinstance(value, dict) or not {"names", "sites", "missing"} <= value.keys():
        return False
    names, sites = value["names"], value["sites"]
    are_names = isinstance(names, list) and all(map(is_text, names))
    return are_names and is_text(value["missing"]) and (sites is None or is_count(sites))


def is_shown(value: Any) -> bool:
    """Tell whether a value says which metrics and which control the views of a survey show."""
    if not isinstance(value, dict) or set(value) != {"metrics", "control"}:
        return False
    metrics, control = value["metrics"], value["control"]
    if control is not None and control not in list(CONTROLS):
        return False
    if metrics is None:
        return True
    if not isinstance(metrics, list) or not metrics:
        return False
    return all(isinstance(name, str) and name in NAMES for name in metrics)


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (is_text, "a text"),
    "revision": (is_text_or_nothing, "a text or null"),
    "architecture": (is_text, "a text"),
    "dtype": (is_text, "a text"),
    "vocab_size": (is_count, "a whole number from 0"),
    "n_layers": (is_count, "a whole number from 0"),
    "draws": (are_draws, "resamples from 100, a confidence between 0 and 1, and a seed"),
    "shown": (is_shown, "the names of metrics or null, and a control or null"),
    "recipe": (is_text, "a text"),
    "arguments": (is_object, "a JSON object"),
    "remote": (is_truth_value, "true or false"),
    "versions": (are_texts, "a JSON object of texts"),
    "seconds": (is_quantity, "a number from 0"),
    "certificate": (is_text, "a text"),
    "prompt": (is_count, "a whole number from 0"),
    "not_begun": (are_counts, "a list of whole numbers from 0"),
    "far_off": (are_counts, "a list of whole numbers from 0"),
    "generation": (is_object, "a JSON object"),
    "timings": (are_timings, "a JSON object of numbers from 0, or null where nothing was measured"),
    "jobs": (is_object, "a JSON object"),
    "lens": (is_object, "a JSON object"),
    "edits": (are_edits, "a list of edits"),
    "controls": (are_controls, "the names of controls, the number of their sites, why none"),
}


def read_provenance(stored: Any, sizes: Sizes) -> dict[str, Any]:
    """Return where a result comes from. A file may lack any key, and have others."""
    for name, value in read_dict(stored, sizes).items():
        if name not in CHECKS:
            continue
        is_valid, expected = CHECKS[name]
        if not is_valid(value):
            raise ValueError(f"its {name!r} is {value!r:.80}, expected is {expected}")
    if "lens" in stored:
        check_used_lens(stored["lens"])
    return stored
