"""Which arrays a run gives, of which type and shape: to say beforehand how large they are, and to check what came."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.axes import Site
from lens_recipes.trace.buffers import max_tracked_tokens


class UpTo(NamedTuple):
    """A length that is known only afterwards: at most `most`, and `likely` where nothing better is known.

    It is the same wherever one such object stands in a schema.
    """

    most: int
    likely: int


Shape = tuple[int | UpTo, ...]


@dataclass(frozen=True)
class Schema:
    """Types and shapes of a batch's arrays.

    Attributes:
        arrays: (dtype, shape) of each.
        optional: The same of arrays that may be missing.
    """

    arrays: dict[str, tuple[str, Shape]]
    optional: dict[str, tuple[str, Shape]] = field(default_factory=dict)

    def check(self, arrays: dict[str, np.ndarray]) -> None:
        """Raise ValueError if these are not such arrays."""
        known = self.arrays | self.optional
        if unknown := sorted({*arrays} - {*known}) or sorted({*self.arrays} - {*arrays}):
            raise ValueError(f"arrays {unknown} are unknown or missing")
        found: dict[int, int] = {}
        for name, array in arrays.items():
            dtype, shape = known[name]
            fits = len(shape) == array.ndim and all(
                map(_fits, array.shape, shape, [found] * array.ndim)
            )
            if str(array.dtype) != dtype or not fits:
                raise ValueError(
                    f"{name} is {array.dtype} {list(array.shape)}, not {dtype} {list(shape)}"
                )

    def nbytes(self, *, most: bool = False) -> dict[str, int]:
        """Bytes of all arrays by dtype, as they are likely to be, or at most."""
        sizes: dict[str, int] = {}
        for dtype, shape in (*self.arrays.values(), *self.optional.values()):
            lengths = [(n.most if most else n.likely) if isinstance(n, UpTo) else n for n in shape]
            sizes[dtype] = sizes.get(dtype, 0) + int(np.prod(lengths)) * np.dtype(dtype).itemsize
        return sizes


def _fits(length: int, asked: int | UpTo, found: dict[int, int]) -> bool:
    """Whether a length is as asked; `found` holds those that were known only afterwards."""
    if isinstance(asked, UpTo):
        return length <= asked.most and found.setdefault(id(asked), length) == length
    return length == asked


CHECKS: dict[str, str] = {"block": "float32", "total": "float32", "head": "float32"}

CERTIFICATE = {
    "error": "float32",
    "scale": "float32",
    "eps": "float32",
    "kl_last": "float32",
    "agrees": "bool",
}


def lens_schema(
    options: dict[str, Any], sites: list[Site], n_tokens: int | UpTo, n_wanted: int
) -> Schema:
    """The arrays of `readout` with these options and the checks of `collect`.

    `n_wanted` counts the ids that are followed, without the model's own answer.
    """
    site, want, top_k = (options["n_sites"], n_tokens), n_wanted + 1, options["top_k"]
    tracked = _tracked(options, sites)
    return Schema(
        {
            "top_ids": ("int32", (*site, top_k)),
            "top_logprobs": ("float32", (*site, top_k)),
            **dict.fromkeys(("entropy", "kl", "logsumexp"), ("float32", site)),
            "wanted_logprobs": ("float32", (*site, want)),
            "wanted_ranks": ("int32", (*site, want)),
            "tracked_ids": ("int32", (n_tokens, tracked)),
            "tracked_logprobs": ("float32", (*site, tracked)),
            "final_ids": ("int64", (n_tokens,)),
            "final_logprob": ("float32", (n_tokens,)),
            **{name: (dtype, (n_tokens,)) for name, dtype in CERTIFICATE.items()},
        },
        {name: (dtype, (n_tokens,)) for name, dtype in CHECKS.items()},
    )


def _tracked(options: dict[str, Any], sites: list[Site]) -> UpTo:
    """How many tokens of a position are followed.

    A stream keeps its top token through several layers, and every part has its own; how many that makes was fitted to
    SmolLM2 (benchmarks/remote.py --sizes prints what came of it beside what really travels).
    """
    most = max_tracked_tokens(options["track"], options["n_sites"], options["max_tracked"])
    streams = sum(site.component.startswith("resid") for site in sites)
    changing = round(0.22 * streams + 0.9 * (len(sites) - streams))
    return UpTo(most, min(most, max(1, changing)) if options["track"] == "top1" else most)


def generation_schema(
    options: dict[str, Any], sites: list[Site], batch: dict[str, Any], n_steps: int
) -> Schema:
    """The arrays of `overhear`: some tokens are read in the first step, later one of each row."""
    n_rows, n_targets = batch["targets"].shape
    most = len(batch["first"][0]) + n_rows * (n_steps - 1)
    n_tokens = UpTo(most, most)
    lens = lens_schema(options, sites, n_tokens, n_targets + 1)
    steps = {
        **dict.fromkeys(("row", "position", "id", "next_id"), ("int64", (n_tokens,))),
        "generated": ("bool", (n_tokens,)),
        **dict.fromkeys(("next_logprob", "sampler_logprob"), ("float32", (n_tokens,))),
        "seconds": ("float64", (UpTo(n_steps, n_steps), 2)),
    }
    return Schema(lens.arrays | steps, lens.optional)


def attribution_schema(n_parts: int, n_tokens: int, n_columns: int) -> Schema:
    """The arrays of `decompose`, the certificate's and the checks of `collect`."""
    token = (n_tokens, n_columns)
    return Schema(
        {
            "values": ("float32", (n_parts, *token)),
            **dict.fromkeys(("constant", "logit", "capped_logit"), ("float32", token)),
            **{name: (dtype, (n_tokens,)) for name, dtype in CERTIFICATE.items()},
        },
        {name: (dtype, (n_tokens,)) for name, dtype in CHECKS.items()},
    )
