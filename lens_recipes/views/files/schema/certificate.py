"""The certificate in a file: each of its fields is what a run can write, or the file is damaged."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from lens_recipes.arrays.certificate import Certificate
from lens_recipes.views.files.schema.checks import (
    Sizes,
    is_count,
    is_layer,
    is_number,
    read_dict,
)
from lens_recipes.views.files.strict_json import from_json

EDIT_FIELDS = ("max_edit_error", "edit_identity_error", "edit_cone_error", "worst_edit")
LINK_FIELDS = ("links", "max_link_error", "max_link_layer", "changed_layers", "unlinked_layers")

# What is written only where there is something to be said.
RARE_FIELDS = ("image_layers", "read_both_ways")


def is_error(value: Any) -> bool:
    """Tell whether a value is the size of a difference; NaN and infinity are large ones."""
    return is_number(value) and not value < 0


def is_scale(value: Any) -> bool:
    """Tell whether a value is the largest of some logits: infinite ones are not counted."""
    return is_error(value) and not math.isinf(value)


def is_share(value: Any) -> bool:
    """Tell whether a value is a share of some tokens."""
    return is_error(value) and not value > 1


def are_layers(value: Any) -> bool:
    """Tell whether a value is a list of layers."""
    return isinstance(value, list) and all(map(is_layer, value))


def is_truth_value(value: Any) -> bool:
    """Tell whether a value is true or false."""
    return isinstance(value, bool)


def is_dtype(value: Any) -> bool:
    """Tell whether a value is the name of a dtype."""
    return isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_]{2,30}", value) is not None


def is_site_name(value: Any) -> bool:
    """Tell whether a value is the name of a site that can be edited."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"embed|\d{1,6}(\.[a-z_]{3,20}){0,1}(\.\d{1,6})?", value) is not None
    )


CHECKS: dict[str, Callable[[Any], bool]] = {
    "max_abs_logit": is_scale,
    "top1_agreement": is_share,
    "tokens": is_count,
    "dtype": is_dtype,
    "links": is_count,
    "max_link_layer": is_layer,
    "changed_layers": are_layers,
    "unlinked_layers": are_layers,
    "image_layers": are_layers,
    "read_both_ways": is_truth_value,
    "worst_edit": is_site_name,
}


def stored_fields() -> list[dataclasses.Field[Any]]:
    """Return the fields of a certificate that a file holds.

    That it is what a file says, is not for the file to say.
    """
    return [field for field in dataclasses.fields(Certificate) if field.name != "as_saved"]


def read_certificate(stored: Any, sizes: Sizes) -> Certificate | None:
    """Return the certificate, if there is one."""
    if stored is None:
        return None
    stored = read_dict(stored, sizes)
    values: dict[str, Any] = {}
    for field in stored_fields():
        is_optional = field.default is not dataclasses.MISSING
        # Null says "not measured" in an optional field, and NaN in another. A file may be older
        # than an optional field.
        if is_optional and stored.get(field.name) is None:
            values[field.name] = field.default
            continue
        value = from_json(stored[field.name])
        if not CHECKS.get(field.name, is_error)(value):
            raise ValueError(f"{field.name} of the certificate cannot be {value!r:.80}")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return Certificate(**values, as_saved=True)


def write_certificate(certificate: Certificate | None) -> dict[str, Any] | None:
    """Return what the file holds for a certificate.

    In an optional field null says "not measured", so a NaN there is written as a word. Where no
    links were compared, or nothing was edited, nothing is said of that, as in files that are older;
    nor of images where there are none.
    """
    if certificate is None:
        return None
    stored = {**dataclasses.asdict(certificate), "passed": certificate.passed}
    del stored["as_saved"]
    for field in stored_fields():
        if certificate.links is None and field.name in LINK_FIELDS:
            del stored[field.name]
            continue
        if field.name in RARE_FIELDS and not stored[field.name]:
            del stored[field.name]
            continue
        if certificate.max_edit_error is None and field.name in EDIT_FIELDS:
            del stored[field.name]
            continue
        value = stored[field.name]
        is_optional = field.default is None
        if is_optional and isinstance(value, float) and math.isnan(value):
            stored[field.name] = "NaN"
    return stored
