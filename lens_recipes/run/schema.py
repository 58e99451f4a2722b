"""Which arrays a run gives, of which type and shape.

They say beforehand how large a result will be, and check what came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.trace.readout.readout import ReadoutOptions

# How many tokens are the top one at some site, for each stream and for each part of a stream:
# fitted to SmolLM2
# (benchmarks/remote.py --sizes prints what came of it beside what really travels).
TRACKED_PER_STREAM, TRACKED_PER_PART = 0.22, 0.9


class UpTo(NamedTuple):
    """A length that is known only afterwards.

    It is at most `most`, and `likely` where nothing better is known.

    It is the same wherever one such object stands in a schema.
    """

    most: int
    likely: int


Shape = tuple[int | UpTo, ...]


class ArraySpec(NamedTuple):
    """The type and the shape of one array."""

    dtype: str
    shape: Shape


class ArrayLayout(NamedTuple):
    """The type and the shape that an array has."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Schema:
    """Types and shapes of a batch's arrays.

    Attributes:
        arrays: Of each array, by name.
        optional: Of arrays that may be missing.
    """

    arrays: dict[str, ArraySpec]
    optional: dict[str, ArraySpec] = field(default_factory=dict)

    def check_layout(self, layout: dict[str, ArrayLayout]) -> None:
        """Raise ValueError unless arrays of these types and shapes are such arrays."""
        specs = self.arrays | self.optional
        unknown = sorted({*layout} - {*specs})
        missing = sorted({*self.arrays} - {*layout})
        if unknown or missing:
            raise ValueError(f"arrays {unknown or missing} are unknown or missing")
        lengths: dict[int, int] = {}
        for array_name, (actual_dtype, actual_shape) in layout.items():
            dtype, shape = specs[array_name]
            if actual_dtype != dtype or not shape_fits(actual_shape, shape, lengths):
                raise ValueError(
                    f"{array_name} is {actual_dtype} {list(actual_shape)}, "
                    f"not {dtype} {list(shape)}"
                )

    def nbytes(self, *, most: bool = False) -> dict[str, int]:
        """Return the bytes of all arrays by dtype, as they are likely to be, or at most."""
        sizes: dict[str, int] = {}
        for dtype, shape in (*self.arrays.values(), *self.optional.values()):
            n_values = int(np.prod([expected_length(length, most) for length in shape]))
            sizes[dtype] = sizes.get(dtype, 0) + n_values * np.dtype(dtype).itemsize
        return sizes


def expected_length(length: int | UpTo, most: bool) -> int:
    """Return a length, which of one that is not yet known is the likely one, or the largest."""
    if not isinstance(length, UpTo):
        return length
    return length.most if most else length.likely


def shape_fits(actual: tuple[int, ...], expected: Shape, lengths: dict[int, int]) -> bool:
    """Tell whether a shape is as expected.

    Args:
        actual: The shape that came.
        expected: The shape that was asked for.
        lengths: Those that were known only afterwards, by the identity of their `UpTo`; filled
            here.
    """
    if len(actual) != len(expected):
        return False
    for length, specification in zip(actual, expected, strict=True):
        if not isinstance(specification, UpTo):
            if length != specification:
                return False
            continue
        known_length = lengths.setdefault(id(specification), length)
        if length != known_length or not 0 <= length <= specification.most:
            return False
    return True


EDIT_CHECKS = ("edit", "edit_site", "edit_identity", "edit_cone", "edit_worst")
CHECKS = dict.fromkeys(("block", "total", "head"), "float32")
CERTIFICATE = {
    **dict.fromkeys(("error", "scale", "eps", "kl_last"), "float32"),
    "agrees": "bool",
}


def token_arrays(dtypes: dict[str, str], n_tokens: int | UpTo) -> dict[str, ArraySpec]:
    """Return the specifications of arrays `[token]`."""
    return {array_name: ArraySpec(dtype, (n_tokens,)) for array_name, dtype in dtypes.items()}


def check_arrays(n_links: int, n_tokens: int | UpTo) -> dict[str, ArraySpec]:
    """Return the specifications of what `collect` checks, with so many links between layers."""
    return token_arrays(CHECKS, n_tokens) | {"link": ArraySpec("float32", (n_links, n_tokens))}


def with_edit_checks(schema: Schema) -> Schema:
    """Return a schema with what an edited run also says of each token: how its edits hold."""
    token_axis = schema.arrays["error"].shape
    checks = {array_name: ArraySpec("float32", token_axis) for array_name in EDIT_CHECKS}
    return Schema(schema.arrays, schema.optional | checks)


def lens_schema(
    options: ReadoutOptions,
    sites: list[Site],
    n_links: int,
    n_tokens: int | UpTo,
    n_requested: int,
) -> Schema:
    """Return the arrays of `readout` with these options, and the checks of `collect`.

    Args:
        options: Of the readout.
        sites: Those that are read.
        n_links: How many streams are compared with what the model goes on with.
        n_tokens: How many tokens are read.
        n_requested: How many ids are followed, without the model's own answer.
    """
    by_site = (options.n_sites, n_tokens)
    tracked = tracked_length(options, sites)
    top, requested = (*by_site, options.top_k), (*by_site, n_requested + 1)
    arrays = {
        "top_ids": ArraySpec("int32", top),
        "top_logprobs": ArraySpec("float32", top),
        "entropy": ArraySpec("float32", by_site),
        "kl": ArraySpec("float32", by_site),
        "logsumexp": ArraySpec("float32", by_site),
        "wanted_logprobs": ArraySpec("float32", requested),
        "wanted_ranks": ArraySpec("int32", requested),
        "tracked_ids": ArraySpec("int32", (n_tokens, tracked)),
        "tracked_logprobs": ArraySpec("float32", (*by_site, tracked)),
        "final_ids": ArraySpec("int64", (n_tokens,)),
        "final_logprob": ArraySpec("float32", (n_tokens,)),
    }
    # A job that an earlier version sent does not bring it.
    later = token_arrays({"final_entropy": "float32"}, n_tokens)
    return Schema(
        arrays | token_arrays(CERTIFICATE, n_tokens), check_arrays(n_links, n_tokens) | later
    )


def with_effects(schema: Schema, n_runs: int, n_tokens: int, n_targets: int) -> Schema:
    """Return a schema with what edits do to the model's own logits.

    Args:
        schema: Of the lens.
        n_runs: The unedited run, the edited one and the controls.
        n_tokens: How many tokens are read.
        n_targets: How many targets are followed.
    """
    return Schema(schema.arrays | effect_specs(n_runs, n_tokens, n_targets), schema.optional)


def effect_specs(n_runs: int, n_tokens: int, n_targets: int) -> dict[str, ArraySpec]:
    """Return the arrays of `effect_arrays`."""
    by_run = (n_runs, n_tokens)
    return {
        "effect_kl": ArraySpec("float32", by_run),
        "effect_target_logits": ArraySpec("float32", (*by_run, n_targets)),
        "effect_answer_logits": ArraySpec("float32", by_run),
        "effect_logsumexp": ArraySpec("float32", by_run),
        "effect_top_ids": ArraySpec("int32", by_run),
        "effect_outside": ArraySpec("float32", (n_tokens,)),
    }


def tracked_length(options: ReadoutOptions, sites: list[Site]) -> UpTo:
    """Return how many tokens of a position are followed.

    A stream keeps its top token through several layers, and every part has its own.
    """
    most = options.tracked
    if options.track != "top1":
        return UpTo(most, most)
    n_streams = sum(site.component.startswith("resid") for site in sites)
    n_parts = len(sites) - n_streams
    likely = round(TRACKED_PER_STREAM * n_streams + TRACKED_PER_PART * n_parts)
    return UpTo(most, min(most, max(1, likely)))


def generation_schema(
    options: ReadoutOptions,
    sites: list[Site],
    n_links: int,
    n_first_tokens: int,
    n_rows: int,
    n_targets: int,
    n_steps: int,
) -> Schema:
    """Return the arrays of a generation on a server.

    Args:
        options: Of the readout at each step.
        sites: Those that are read.
        n_links: How many streams are compared with what the model goes on with.
        n_first_tokens: How many tokens are read in the first step; later it is one of each row.
        n_rows: How many texts are written at a time.
        n_targets: How many tokens are followed.
        n_steps: At most so many tokens are written.
    """
    most = n_first_tokens + n_rows * (n_steps - 1)
    n_tokens = UpTo(most, most)
    lens = lens_schema(options, sites, n_links, n_tokens, n_targets + 1)
    steps = {
        **dict.fromkeys(("row", "position", "id", "next_id"), "int64"),
        "generated": "bool",
        **dict.fromkeys(("next_logprob", "sampler_logprob"), "float32"),
    }
    seconds = {"seconds": ArraySpec("float64", (UpTo(n_steps, n_steps), 2))}
    return Schema(lens.arrays | token_arrays(steps, n_tokens) | seconds, lens.optional)


def attribution_schema(n_parts: int, n_links: int, n_tokens: int, n_columns: int) -> Schema:
    """Return the arrays of `decompose`, the certificate's, and the checks of `collect`."""
    by_token = (n_tokens, n_columns)
    arrays = {
        "values": ArraySpec("float32", (n_parts, *by_token)),
        "constant": ArraySpec("float32", by_token),
        "logit": ArraySpec("float32", by_token),
        "capped_logit": ArraySpec("float32", by_token),
    }
    return Schema(arrays | token_arrays(CERTIFICATE, n_tokens), check_arrays(n_links, n_tokens))
