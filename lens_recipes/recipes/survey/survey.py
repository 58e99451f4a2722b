"""`survey()`: ask the same of thousands of prompts, in blocks that survive anything.

items ─► blocks of 256 ─► ids, controls ─► logit_lens ─► numbers of each item ─► one file a block
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.survey.arrays import DEFAULT_CONTROL, ItemNames, Shown
from lens_recipes.arrays.survey.curves import Draws
from lens_recipes.caller import say
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.tokens.vocabulary import prompt_text, token_texts
from lens_recipes.recipes.logit_lens import logit_lens
from lens_recipes.recipes.survey.arguments import (
    as_shard,
    check_model,
    checked_draws,
    checked_views,
    position_of_all,
)
from lens_recipes.recipes.survey.assemble import assembled
from lens_recipes.recipes.survey.block import columns_of, lens_arguments, run_block
from lens_recipes.recipes.survey.block_file import StoredBlock
from lens_recipes.recipes.survey.identity import identity_of
from lens_recipes.recipes.survey.items import Item, LeftOut, images_of, read_items
from lens_recipes.recipes.survey.prepare import (
    WRONG_ANSWER,
    ItemReader,
    PreparedItem,
    choose_controls,
    left_out,
)
from lens_recipes.recipes.survey.store import SurveyStore
from lens_recipes.results import Survey
from lens_recipes.run.progress import progress_of_items
from lens_recipes.run.provenance import to_json
from lens_recipes.run.request.edits.resolve import resolve_edits
from lens_recipes.run.request.images.digests import source_digest
from lens_recipes.run.request.lenses import resolve_lens
from lens_recipes.run.request.prompts import shortened
from lens_recipes.run.request.selection import as_list
from lens_recipes.trace.kernels import LOGIT_BYTES

BLOCK = 256  # items that are run and kept together, the same however a survey is parted


def survey(
    model: Envoy | None = None,
    items: Any = None,
    *,
    models: Sequence[Envoy] | None = None,
    images: Any = None,
    lens: Any = None,
    edits: Any = None,
    layers: Any = None,
    components: Any = "resid_post",
    positions: Any = "answer",
    metrics: str | Sequence[str] | None = None,
    control: str | None = DEFAULT_CONTROL,
    fields: Mapping[str, str] | None = None,
    only_correct: bool = False,
    on_error: str = "stop",
    path: str | os.PathLike[str] | None = None,
    resume: bool = True,
    shard: tuple[int, int] | None = None,
    bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
    add_special_tokens: bool = True,
    max_bytes: int = LOGIT_BYTES,
    remote: bool | str | None = None,
) -> Survey | list[Survey]:
    """Read the lens on thousands of items, and keep what it says of each one's answer.

    Beside each answer stand two controls in the same forward pass: the answer of another item of
    its group ("shuffle"), and a random token that is about as frequent ("random").

    Args:
        model: What `load()` returns.
        items: The path of a .jsonl, .csv or .tsv file, the name of a set of the package
            ("capitals"), a list of dicts, a pandas frame, the rows of a Hugging Face data set, or
            any iterable of dicts; read as a stream. Each has "prompt" (a text, a chat or ids) and
            "target" (a token, or a list of spellings of which any counts), and perhaps "against"
            (what it is held against), "group" (a condition), "cluster" (a template: resampled
            together), "id", "position", and "images" (of its prompt: a path or a list of them, from
            the file of the items on).
        models: Several models in place of one, for a survey of each.
        images: Of every item that names none: an image or a list of them, as for `logit_lens`.
        lens, edits, layers, components: As for `logit_lens`.
        positions: Where the answer is looked for: "answer", after the last token, or another
            position for all items that name none.
        metrics: What tables and pages show, such as "accuracy@1" or ["rank", "kl"]; None for all
            but a few. All are kept, and can be asked for later.
        control: What views hold the answer against: "shuffle", "random", or None for nothing.
        fields: What the items call these, such as {"prompt": "question"}.
        only_correct: Leave out items that the model itself answers otherwise.
        on_error: At an item that cannot be read: "stop", or "skip" to leave it out.
        path: A folder for what is done so far; a run that was stopped goes on there, to the same
            numbers. None keeps all in memory.
        resume: False begins anew in that folder.
        shard: (i, n) for the i-th of n parts of the items, from 1; `Survey.merge` joins them.
        bootstrap: Resamples of an interval.
        confidence: Of the intervals.
        seed: For controls and intervals.
        add_special_tokens, max_bytes, remote: As for `logit_lens`.

    Returns:
        A `Survey`, or a list of them for `models`. `left_out` says which items are not in it, and
        why.

    Raises:
        ValueError: an argument or an item that cannot be used.
        LensError: a model that cannot be read, a folder of another survey, or no item left.

    Example:
        >>> print(survey(load("smollm2"), "capitals").summary())
    """
    draws = checked_draws(bootstrap, confidence, seed)
    shown = checked_views(metrics, control)
    if items is None:
        if model is not None and not isinstance(model, Envoy):
            raise ValueError(
                f"received {shortened(model)} as the model, and no items: it is survey(model, "
                'items), such as survey(load("smollm2"), "capitals").'
            )
        raise ValueError(
            "survey needs items: a file, a list of dicts, or the name of a set of the package, "
            'such as "capitals".'
        )
    options = {
        "images": images_of(images, "images"),
        "lens": lens,
        "edits": edits,
        "layers": layers,
        "components": components,
        "positions": positions,
        "shown": shown,
        "fields": fields,
        "only_correct": only_correct,
        "on_error": on_error,
        "resume": resume,
        "shard": shard,
        "add_special_tokens": add_special_tokens,
        "max_bytes": max_bytes,
        "remote": remote,
    }
    if models is None:
        check_model(model)
        return survey_of_one(model, items, draws, path=path, **options)
    if model is not None:
        raise ValueError("pass model or models, not both.")
    if path is not None:
        raise ValueError("path is the folder of one survey: with models, leave it out.")
    if isinstance(models, Envoy):
        raise ValueError("models is a list of what load() returns; received one model.")
    if not isinstance(models, Sequence) or not models:
        raise ValueError(
            f"received {shortened(models)} as models; accepted is a list of what load() returns."
        )
    for each in models:
        check_model(each)
    kept = as_list(items)
    return [survey_of_one(one, kept, draws, path=None, **options) for one in models]


def survey_of_one(
    model: Envoy,
    items: Any,
    draws: Draws,
    *,
    path: str | os.PathLike[str] | None,
    images: tuple[Any, ...],
    lens: Any,
    edits: Any,
    layers: Any,
    components: Any,
    positions: Any,
    shown: Shown,
    fields: Mapping[str, str] | None,
    only_correct: bool,
    on_error: str,
    resume: bool,
    shard: tuple[int, int] | None,
    add_special_tokens: bool,
    max_bytes: int,
    remote: bool | str | None,
) -> Survey:
    """Survey one model."""
    chosen_lens = resolve_lens(lens, model)
    chosen_edits = resolve_edits(edits, model)
    position = position_of_all(positions)
    part = None if shard is None else as_shard(shard)
    asked = {
        "layers": to_json(layers),
        "components": [components] if isinstance(components, str) else to_json(components),
        "positions": positions,
        "only_correct": bool(only_correct),
        "add_special_tokens": bool(add_special_tokens),
        "seed": draws.seed,
        "shard": None if part is None else list(part),
    }
    if images:  # of a survey without, an earlier version says nothing
        asked["images"] = [source_digest(image) for image in images]
    identity = identity_of(model, chosen_lens, chosen_edits, asked)
    asked["weights"] = identity["weights"]  # parts of a survey are of the same
    store = SurveyStore(path, identity, resume=resume)
    reader = ItemReader(model, anatomy(model), add_special_tokens=add_special_tokens)
    options = {
        "lens": chosen_lens,
        "edits": chosen_edits or None,
        "controls": 0,  # a survey has its own
        "layers": layers,
        "components": components,
        "add_special_tokens": add_special_tokens,
        "max_bytes": max_bytes,
        "remote": remote,
    }
    found = read_items(items, fields, on_error=on_error, position=position, images=images)
    n_items = number_of(items)
    try:
        with progress_of_items("survey", n_items) as count:
            for number, block in blocks_of(found, part):
                digest = digest_of(block)
                if not store.has(number, digest):
                    stored = ask(model, block, reader, draws.seed, only_correct, options)
                    store.keep(number, stored._replace(items=digest))
                count(len(block))
    except KeyboardInterrupt:
        raise interrupted(store) from None
    about_model = {name: identity[name] for name in ("model", "revision", "dtype")}
    provenance = {
        "recipe": "survey",
        "n_layers": reader.n_layers,
        "arguments": asked,
        "draws": draws._asdict(),
        "shown": to_json(shown._asdict()),
    }
    return assembled(store, about_model | provenance, is_part=part is not None)


def number_of(items: Any) -> int | None:
    """Return how many items there are, for the progress; None where nobody says."""
    if not isinstance(items, Sized) or isinstance(items, str):
        return None
    try:
        return len(items)
    except (
        TypeError,
        RuntimeError,
        NotImplementedError,
    ):  # some streams have a length in name only
        return None


def interrupted(store: SurveyStore) -> KeyboardInterrupt:
    """Return what says how to go on."""
    if store.folder is None:
        return KeyboardInterrupt(
            "the survey was interrupted, and nothing was kept of it. "
            + say(
                python="With path= it goes on from where it was.",
                shell="With --folder it goes on from where it was.",
            )
        )
    return KeyboardInterrupt(
        f"the survey was interrupted; {str(store.folder)!r} holds {store.n_done} blocks of {BLOCK} "
        "items. "
        + say(
            python="Call survey again with the same arguments to go on.",
            shell="Run the command again to go on.",
        )
    )


def blocks_of(
    items: Iterable[Item | LeftOut], part: tuple[int, int] | None
) -> Iterator[tuple[int, list[Item | LeftOut]]]:
    """Yield the blocks of a stream of items that are asked for, with their numbers."""
    which, n_parts = (1, 1) if part is None else part
    block: list[Item | LeftOut] = []
    number = 0
    for item in items:
        block.append(item)
        if len(block) == BLOCK:
            if number % n_parts == which - 1:
                yield number, block
            block, number = [], number + 1
    if block and number % n_parts == which - 1:
        yield number, block


def digest_of(block: list[Item | LeftOut]) -> str:
    """Return what tells the items of a block from others."""
    words = ", ".join(item_in_words(entry) for entry in block)
    return hashlib.sha256(f"[{words}]".encode()).hexdigest()[:16]


def item_in_words(entry: Item | LeftOut) -> str:
    """Return all that an item is, as text; of images not where they are, but what."""
    if isinstance(entry, LeftOut):
        return repr(entry)
    words = []
    for name, value in entry._asdict().items():
        if name != "images":
            words.append(f"{name}={value!r}")
        elif value:
            words.append(f"images={[source_digest(image) for image in value]}")
    return f"Item({', '.join(words)})"


def ask(
    model: Envoy,
    block: list[Item | LeftOut],
    reader: ItemReader,
    seed: int,
    only_correct: bool,
    options: Mapping[str, Any],
) -> StoredBlock:
    """Run one block, and return what is kept of it."""
    prepared, missing = prepared_items(block, reader)
    if not prepared:
        return StoredBlock("", [], [], {}, missing, {}, None, {})
    controls = choose_controls(prepared, reader.tokenizer, reader.vocab_size, seed)
    result = run_block(model, prepared, controls, **options)
    texts = dict(result.texts)
    arrays, names = result.arrays, [names_of(one, reader.tokenizer) for one in prepared]
    if only_correct:
        is_right = (arrays["target_ids"] == arrays["answer_ids"][:, None]).any(1)
        for index in (~is_right).nonzero()[0].tolist():
            answer = texts[int(arrays["answer_ids"][index])]
            missing.append(left_out(prepared[index].item, WRONG_ANSWER, repr(answer)))
        arrays = {name: array[is_right] for name, array in arrays.items()}
        names = [name for name, right in zip(names, is_right, strict=True) if right]
    shown = [arrays[name].ravel().tolist() for name in ("target_ids", "against_ids", "top_ids")]
    texts.update(token_texts(reader.tokenizer, {token for ids in shown for token in ids}))
    return StoredBlock(
        items="",
        sites=result.sites,
        names=names,
        arrays=arrays,
        left_out=sorted(missing),
        texts=texts,
        certificate=result.certificate,
        provenance=result.provenance,
    )


def prepared_items(
    block: list[Item | LeftOut], reader: ItemReader
) -> tuple[list[PreparedItem], list[LeftOut]]:
    """Return the items of a block as ids, and those that cannot be asked."""
    prepared: list[PreparedItem] = []
    missing: list[LeftOut] = []
    for item in block:
        entry = item if isinstance(item, LeftOut) else reader.prepare(item)
        if isinstance(entry, LeftOut):
            missing.append(entry)
        else:
            prepared.append(entry)
    return prepared, missing


def names_of(prepared: PreparedItem, tokenizer: Any) -> ItemNames:
    """Return what an item is called, with its prompt as text."""
    item = prepared.item
    if item.images and isinstance(item.prompt, str):
        text = item.prompt  # as it was written: each image has hundreds of tokens
    else:
        text = prompt_text(tokenizer, prepared.token_ids)
    return ItemNames(item.id, item.group, item.cluster, text)


def runs_of_survey(
    model: Envoy,
    items: Any,
    *,
    positions: Any = "answer",
    fields: Mapping[str, str] | None = None,
    on_error: str = "stop",
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    add_special_tokens: bool = True,
    **options: Any,
) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Yield the recipe that each block runs, with its arguments, for `estimate`.

    Args:
        model: What `load()` returns.
        items: As for `survey`, and all other arguments.
        positions, fields, on_error, shard, seed, add_special_tokens: Likewise.
        **options: Likewise; those of the lens are passed on.
    """
    check_model(model)
    names = inspect.signature(survey).parameters
    unknown = [name for name in options if name not in names]
    if unknown:
        raise TypeError(f"survey has no argument {', '.join(unknown)}: see its docstring.")
    if "models" in options:
        raise TypeError(
            "received models=, of which each has an estimate of its own: estimate one model at a "
            "time, as in estimate(survey, model, items)."
        )
    of_lens = ("lens", "edits", "layers", "components", "max_bytes", "remote")
    passed_on = {name: options[name] for name in of_lens if name in options}
    reader = ItemReader(model, anatomy(model), add_special_tokens=add_special_tokens)
    position = position_of_all(positions)
    found = read_items(items, fields, on_error=on_error, position=position)
    for _, block in blocks_of(found, None if shard is None else as_shard(shard)):
        prepared, _ = prepared_items(block, reader)
        if not prepared:
            continue
        controls = choose_controls(prepared, reader.tokenizer, reader.vocab_size, seed)
        asked = lens_arguments(prepared, columns_of(prepared, controls))
        own = {"controls": 0, "add_special_tokens": add_special_tokens}
        yield logit_lens, {"model": model, **asked, **own, **passed_on}


survey.runs_of = runs_of_survey  # type: ignore[attr-defined]
