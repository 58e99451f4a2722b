"""Check what a fit is asked for, and read its text, before anything is computed."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from nnsight.intervention.envoy import Envoy

from lens_recipes.caller import argument, say
from lens_recipes.errors import LensError
from lens_recipes.lenses.belongs import model_record
from lens_recipes.lenses.digests import starts_with_bos
from lens_recipes.lenses.files.own import SUFFIX
from lens_recipes.lenses.record import LensRecord
from lens_recipes.models.handle import context_length, on_meta, refuse_training, resolve_remote
from lens_recipes.models.weights.offload import numbers_of
from lens_recipes.recipes.lenses.estimators.estimator import Estimator, FitTask
from lens_recipes.recipes.lenses.estimators.kinds import ESTIMATORS
from lens_recipes.recipes.lenses.streams import pick_streams
from lens_recipes.recipes.lenses.text.rows import ROW_LENGTH, Row, Shard, digest_of, take_tokens
from lens_recipes.recipes.lenses.text.samples import OWN_TEXT, check_seed
from lens_recipes.recipes.lenses.text.texts import read_texts, rows_of_texts
from lens_recipes.run.provenance import provenance
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import check_ids

QUALITY_TOKENS = 128  # that measure a fitted lens and its two halves, layer by layer


class Fit(NamedTuple):
    """A fit that has been asked for and checked.

    Attributes:
        task: What is fitted.
        estimator: How.
        rows: Rows of text, all of them; of text that the model is to write none.
        writes: Whether the model writes the text.
        n_rows: How many rows the model writes.
        row_length: The most tokens of a row.
        record: What the lens says of its fit, but for what comes out of it.
        identity: What tells it from any other fit, as JSON can hold it.
        path: The file that holds it, or None.
        n_measured: How many tokens are to measure the lens.
    """

    task: FitTask
    estimator: Estimator
    rows: list[Row]
    writes: bool
    n_rows: int
    row_length: int
    record: LensRecord
    identity: dict[str, Any]
    path: Path | None
    n_measured: int

    @property
    def is_whole(self) -> bool:
        """Whether its text is no part of another one."""
        return self.identity["shard"] is None

    @property
    def request(self) -> Request:
        """The model, checked, and where it runs."""
        return self.task.request


def prepare_fit(
    model: Envoy,
    texts: Any = None,
    *,
    kind: str = "linear",
    layers: Any = None,
    tokens: int | None = None,
    path: str | os.PathLike[str] | None = None,
    column: str | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    quality_tokens: int = QUALITY_TOKENS,
    remote: bool | str | None = None,
    **settings: Any,
) -> Fit:
    """Check what `fit_lens` was asked for, and read the texts.

    Raises:
        ValueError, LensError: as `fit_lens`.
    """
    check_kind(kind)
    if tokens is None:
        tokens = ESTIMATORS[kind].default_tokens
    check_numbers(tokens, quality_tokens, seed)
    part = as_shard(shard)
    path = as_path(path)
    refuse_training(model, resolve_remote(model, remote))  # before anything runs: dropout misleads
    request = Request(model, remote=remote)
    if request.remote and not ESTIMATORS[kind].runs_remotely:
        raise LensError(
            f"a {kind} lens needs gradients, which a server does not give. "
            + say(
                python='Fit kind="linear" there, or load the model with its weights.',
                shell="Fit --kind linear there, or leave --remote out.",
            )
        )
    reads_embedding = ESTIMATORS[kind].reads_embedding
    streams = pick_streams(request, layers, with_embedding=reads_embedding)
    task = FitTask(request, streams, seed, settings)
    estimator = ESTIMATORS[kind](task)
    row_length = longest_row(request)
    with_bos = bool(starts_with_bos(model))
    rows: list[Row] = []
    n_rows = 0
    if texts is None:
        words = OWN_TEXT
        n_rows = math.ceil(tokens / (row_length if with_bos else row_length - 1))
        text_mark = OWN_TEXT
    else:
        read = read_texts(texts, column)
        words = read.words
        found = rows_of_texts(read.items, request.tokenizer, row_length, with_bos)
        least = estimator.shortest_row
        usable = (row for row in found if row.is_in(part) and len(row.ids) >= least)
        rows = take_tokens(usable, tokens)
        check_rows(rows, request, max(2, least))
        text_mark = digest_of(rows)
    facts = provenance(model, "fit_lens", {}, request.anatomy.vocab_size, request.remote, 0.0)
    chosen: dict[str, Any] = {"tokens": tokens, "dtype": facts["dtype"], **settings}
    if part is not None:
        chosen["shard"] = list(part)
    record = replace(
        model_record(model),
        model=facts["model"],
        starts_with_bos=with_bos,
        first_position=estimator.first_position,
        text=words,
        seed=seed,
        settings=chosen,
    )
    identity = {
        "kind": kind,
        "model": [facts["model"], facts["revision"], facts["architecture"], facts["dtype"]],
        "weights": weights_mark(model),
        "layers": streams,
        "tokens": tokens,
        "seed": seed,
        "shard": None if part is None else list(part),
        "row_length": row_length,
        "texts": text_mark,
        "settings": dict(settings),
    }
    return Fit(
        task=task,
        estimator=estimator,
        rows=rows,
        writes=texts is None,
        n_rows=n_rows,
        row_length=row_length,
        record=record,
        identity=identity,
        path=path,
        n_measured=quality_tokens,
    )


def longest_row(request: Request) -> int:
    """Return how many tokens a row has at most: no more than the model is made for."""
    bounds = (request.anatomy.n_positions, context_length(request.model))
    return min([ROW_LENGTH, *(bound for bound in bounds if bound is not None)])


def check_kind(kind: Any) -> None:
    """Refuse a kind of lens that is not fitted.

    Raises:
        ValueError: names those that are.
    """
    if not isinstance(kind, str) or kind not in ESTIMATORS:
        raise ValueError(f"{argument('kind', kind)} must be one of {', '.join(ESTIMATORS)}.")


def check_numbers(tokens: Any, quality_tokens: Any, seed: Any) -> None:
    """Refuse numbers that no fit can use.

    Raises:
        ValueError: names the argument and what it may be.
    """
    for name, value, least in (("tokens", tokens, 1), ("quality_tokens", quality_tokens, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f"{argument(name, value)} must be a whole number from {least}.")
    check_seed(seed)


def as_path(path: Any) -> Path | None:
    """Return where a fit is kept.

    Raises:
        ValueError: no file of a lens is called so.
    """
    if path is None:
        return None
    name = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(name, str) or "\0" in name or not name.endswith(SUFFIX):
        raise ValueError(
            f"{argument('path', path)} must name a file that ends in {SUFFIX}, as lenses do."
        )
    return Path(os.path.expanduser(name))


def as_shard(shard: Any) -> Shard | None:
    """Return which part of the text is fitted.

    Raises:
        ValueError: it is none.
    """
    if shard is None:
        return None
    numbers = list(shard) if isinstance(shard, tuple | list) else []
    is_pair = len(numbers) == 2 and all(type(number) is int for number in numbers)
    if not is_pair or not 1 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f"{argument('shard', shard)} must be two whole numbers i and n with i from 1 to n: "
            + say(python="(3, 16) is the third of sixteen.", shell="3/16 is the third of sixteen.")
        )
    return Shard(*numbers)


def check_rows(rows: list[Row], request: Request, least: int) -> None:
    """Refuse texts without tokens, and ids that the model does not have.

    Args:
        rows: Those that can be fitted on.
        request: The model.
        least: How many tokens a text must have.

    Raises:
        ValueError: names what is wrong.
    """
    if sum(len(row.ids) for row in rows) < 2:
        raise ValueError(
            "received no text to fit a lens on: pass at least one of "
            f"{least} tokens or more, after those that are there twice were left out."
        )
    n_embeddings = request.anatomy.n_embeddings
    for row in rows:
        if int(row.ids.max()) >= n_embeddings or int(row.ids.min()) < 0:
            check_ids([row.ids.tolist()], n_embeddings, None)


def weights_mark(model: Envoy) -> str | None:
    """Return what tells a model from another of its architecture; None without weights here."""
    if on_meta(model):
        return None
    hashed = hashlib.sha256()
    for _, parameter in numbers_of(model._module):
        if parameter.is_meta:
            continue
        some = parameter.detach().reshape(-1)[:8].float().cpu()
        hashed.update(some.numpy().tobytes())
    return hashed.hexdigest()[:16]
