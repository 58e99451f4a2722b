"""A lens's record and its quality as our own files hold them, read with care."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from lens_recipes.arrays.stored_alignment import read_alignment
from lens_recipes.arrays.used_lens import EMBEDDING, LensQuality
from lens_recipes.lenses.files.checks import (
    KINDS,
    MAX_LAYERS,
    MAX_TEXT,
    read_count,
    read_flag,
    read_layer,
    read_text,
    shown,
)
from lens_recipes.lenses.record import LensRecord
from lens_recipes.views.files.strict_json import from_json, to_json

COLUMNS = ("kl", "agreement", "logit_kl", "logit_agreement")
MAX_VERSIONS = 100
MAX_REFITS = 100


def read_kind(stored: Any) -> str:
    """Return the kind of a lens."""
    if stored not in KINDS:
        raise ValueError(f"its kind is {shown(stored)}, expected is one of {', '.join(KINDS)}")
    return stored


def read_record(stored: Any) -> LensRecord:
    """Return the record that a file holds."""
    if not isinstance(stored, dict):
        raise ValueError("it has no record of its fit")
    known = {field.name for field in fields(LensRecord)}
    unknown = sorted(set(stored) - known)
    if unknown:
        raise ValueError(f"its record has {unknown[0][:80]!r}, which is unknown")
    settings = stored.get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError("the settings of its record are no object")
    return LensRecord(
        model=read_text(stored.get("model"), "model"),
        revision=read_text(stored.get("revision"), "revision"),
        n_layers=read_count(stored.get("n_layers"), "n_layers", MAX_LAYERS),
        unembedding=read_text(stored.get("unembedding"), "unembedding"),
        tokenizer=read_text(stored.get("tokenizer"), "tokenizer"),
        starts_with_bos=read_flag(stored.get("starts_with_bos"), "starts_with_bos"),
        first_position=read_count(stored.get("first_position"), "first_position") or 0,
        target_layer=read_count(stored.get("target_layer"), "target_layer", MAX_LAYERS),
        text=read_text(stored.get("text"), "text") or "",
        n_prompts=read_count(stored.get("n_prompts"), "n_prompts"),
        n_tokens=read_count(stored.get("n_tokens"), "n_tokens"),
        versions=_read_versions(stored.get("versions", {})),
        seed=_read_seed(stored.get("seed")),
        settings=settings,
    )


def _read_versions(stored: Any) -> dict[str, str]:
    """Return package → version."""
    if not isinstance(stored, dict) or len(stored) > MAX_VERSIONS:
        raise ValueError("its versions are no versions of packages")
    for package, version in stored.items():
        if len(package) > MAX_TEXT or not isinstance(version, str) or len(version) > MAX_TEXT:
            raise ValueError("its versions are no versions of packages")
    return stored


def _read_seed(stored: Any) -> int | None:
    """Return a seed, which may be below 0."""
    if stored is None or (type(stored) is int and abs(stored) < 2**64):
        return stored
    raise ValueError(f"seed is {shown(stored)}, expected is a whole number")


# -- quality -----------------------------------------------------------


def write_quality(quality: LensQuality | None) -> dict[str, Any] | None:
    """Return a table of quality as strict JSON holds it."""
    return None if quality is None else to_json(asdict(quality))


def read_quality(stored: Any) -> LensQuality | None:
    """Return the table of quality that a file holds, or None where it has none."""
    if stored is None:
        return None
    if not isinstance(stored, dict):
        raise ValueError("its quality is no table")
    layers = stored.get("layers")
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS + 1:
        raise ValueError("its quality has no layers")
    if any(type(layer) is not int for layer in layers) or len(set(layers)) != len(layers):
        raise ValueError("the layers of its quality are no numbers of layers")
    halves = stored.get("refit_kl", [])
    if not isinstance(halves, list) or len(halves) > MAX_REFITS:
        raise ValueError("its quality has no refits")
    columns = {name: _read_column(stored.get(name), len(layers), name) for name in COLUMNS}
    return LensQuality(
        layers=[read_layer(layer) for layer in layers],
        **columns,
        refit_kl=[_read_column(half, len(layers), "refit_kl") for half in halves],
        n_tokens=read_count(stored.get("n_tokens"), "n_tokens") or 0,
        text=read_text(stored.get("text"), "the text of its quality") or "",
        alignment=read_alignment(stored.get("alignment")),
    )


def _read_column(stored: Any, length: int, name: str) -> list[float]:
    """Return a number for each layer; null is NaN, and the infinities are texts."""
    if not isinstance(stored, list) or len(stored) != length:
        raise ValueError(f"{name} of its quality has not one number for each of {length} layers")
    numbers = [from_json(number) for number in stored]
    for number in numbers:
        if type(number) not in (int, float) or (abs(number) > 1e300 and number != float("inf")):
            raise ValueError(f"{name} of its quality has {shown(number)}, which is no number")
    return [float(number) for number in numbers]


__all__ = ["EMBEDDING", "KINDS", "read_kind", "read_quality", "read_record", "write_quality"]
