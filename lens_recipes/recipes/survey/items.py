"""Read the items of a survey as a stream: files, frames, data sets, or anything iterable."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lens_recipes.caller import parameter, say
from lens_recipes.recipes.survey.places import Place, as_place
from lens_recipes.recipes.survey.sets.lens_evals import holds_evals, lens_evals
from lens_recipes.recipes.survey.sets.own_sets import names_own_set, own_set, own_set_names
from lens_recipes.run.request.images.opened import is_image
from lens_recipes.run.request.images.sources.file import path_of
from lens_recipes.run.request.prompts import is_token_id, shortened

JSON_LINES = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
ENCODING = "utf-8-sig"  # a mark of the byte order is no text

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")

# What an item may say. All but the prompt and the target may be missing.
FIELDS = ("prompt", "target", "against", "group", "cluster", "id", "position", "images")


class Item(NamedTuple):
    """One item of a survey.

    Attributes:
        number: Which of all items it is, counted from 0.
        place: Where it stands, in words: "line 12", "item 3".
        prompt: A text, a chat or token ids.
        target: The spellings of the answer, texts or ids; one of them is as good as another.
        against: The same of what the answer is held against; empty for nothing.
        group: Its condition; "" for none.
        cluster: Which items it is resampled with, such as those of its template; "" for none.
        id: Its name; its number where it has none.
        position: At which token of the prompt the answer is looked for: its number, or a place
            that is found when the prompt is tokenised.
        images: Those of its prompt, in their order: paths, PIL images or arrays; empty for none.
    """

    number: int
    place: str
    prompt: Any
    target: tuple[Any, ...]
    against: tuple[Any, ...]
    group: str
    cluster: str
    id: str
    position: int | Place
    images: tuple[Any, ...] = ()


class LeftOut(NamedTuple):
    """An item that is not among the numbers, and why.

    Attributes:
        number, id: Of the item.
        reason: In a few words, the same for all items that are left out for it.
        detail: What it was about this one.
    """

    number: int
    id: str
    reason: str
    detail: str


class Record(NamedTuple):
    """An item as it was found, before it is checked.

    Attributes:
        place: Where it stands, in words.
        fields: What it says; or why it cannot be read, in words.
    """

    place: str
    fields: Mapping[str, Any] | str


def read_items(
    items: Any,
    fields: Mapping[str, str] | None = None,
    *,
    on_error: str = "stop",
    position: int = -1,
    images: tuple[Any, ...] = (),
) -> Iterator[Item | LeftOut]:
    """Yield the items of a survey one after the other, as they are read.

    Args:
        items: The path of a .jsonl, .csv or .tsv file; the name of a set that comes with the
            package; what `lens_evals` reads; a pandas frame; the rows of a Hugging Face data set;
            or any iterable of dicts.
        fields: What the items call what is wanted here, such as {"prompt": "question"}.
        on_error: "stop" raises at an item that cannot be read; "skip" leaves it out and goes on.
        position: Of items that name none.
        images: Of items that name none.

    Raises:
        ValueError: an item that cannot be read, or two with one id.
    """
    names = field_names(fields)
    if on_error not in ("stop", "skip"):
        raise ValueError(f'on_error={on_error!r} is unknown: accepted are "stop" and "skip".')
    ids: set[str] = set()
    folder = folder_of(items)
    for number, record in enumerate(records(items)):
        try:
            item = read_item(number, record, names, position, folder)
            if not item.images:
                item = item._replace(images=images)
            if item.id in ids:
                raise ValueError(f"there is another item with the id {item.id!r}")
        except ValueError as error:
            if on_error == "stop":
                raise ValueError(
                    f"{record.place}: {str(error).removesuffix('.')}. "
                    + say(python='on_error="skip"', shell="--skip-errors")
                    + " leaves such items out and goes on."
                ) from None
            yield LeftOut(number, str(number), "cannot be read", f"{record.place}: {error}")
            continue
        ids.add(item.id)
        yield item


def field_names(fields: Mapping[str, str] | None) -> dict[str, str]:
    """Return what the items call each field.

    Raises:
        ValueError: a field that no item has.
    """
    names = {name: name for name in FIELDS}
    if fields is None:
        return names
    is_dict = isinstance(fields, Mapping)
    if not is_dict or not all(
        name in names and isinstance(given, str) for name, given in fields.items()
    ):
        raise ValueError(
            f"fields={shortened(fields)}: accepted are names of {', '.join(FIELDS)}, each with "
            'what the items call it, such as {"prompt": "question"}.'
        )
    return names | dict(fields)


# -- where items come from ---------------------------------------------


def records(items: Any) -> Iterator[Record]:
    """Yield the items as they are found.

    Raises:
        ValueError: there is no such file, or this holds no items.
    """
    if isinstance(items, str) and names_own_set(items):
        with own_set(items).open(encoding=ENCODING) as file:
            yield from json_records(file)
        return
    if isinstance(items, str | os.PathLike):
        path = Path(os.path.expanduser(items))
        try:
            is_evals = holds_evals(path)
        except OSError as error:  # such as a name that is too long
            raise ValueError(
                f"{shortened(str(path))} cannot be read: {error.strerror or error}."
            ) from None
        yield from eval_records(path) if is_evals else file_records(path)
        return
    if hasattr(items, "to_dict") and hasattr(items, "itertuples"):  # a frame of pandas
        items = frame_rows(items)
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        raise ValueError(
            f"received {shortened(items)} as {parameter('items')}; accepted are the path of a "
            ".jsonl, .csv or .tsv file, a list of dicts, a pandas frame, or the rows of a data set."
        )
    for number, item in enumerate(items):
        is_item = isinstance(item, Mapping)
        yield Record(f"item {number}", item if is_item else f"it is {shortened(item)}, no dict")


def eval_records(path: Path) -> Iterator[Record]:
    """Yield the items of the Jacobian-lens paper's evaluation sets.

    Raises:
        ValueError: there are none, or a file is of another form.
    """
    for item in lens_evals(path):
        yield Record(f"item {item['id']}", item)


def frame_rows(frame: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a frame of pandas as dicts."""
    names = list(frame.columns)
    if len(set(names)) < len(names):
        header_of([str(name) for name in names])
    for row in frame.itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


def file_records(path: Path) -> Iterator[Record]:
    """Yield the items of a file, which is read as they are needed.

    Raises:
        ValueError: there is no such file, or it is of another kind.
    """
    suffix = path.suffix.lower()
    if suffix not in (*JSON_LINES, *DELIMITERS):
        raise ValueError(
            f"{str(path)!r} is no file of items: accepted are .jsonl, with a line like "
            '{"prompt": "The capital of France is", "target": " Paris"}, and .csv or .tsv with the '
            "columns prompt and target; the name of a set that comes with the package: "
            f"{', '.join(own_set_names())}; or a folder with lens-eval-*.json."
        )
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            if suffix in JSON_LINES:
                yield from json_records(file)
            else:
                yield from csv_records(file, DELIMITERS[suffix])
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error.reason}.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{str(path)!r} cannot be read: {reason}.") from None


def json_records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield what each line of JSON says; empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            fields = json.loads(line.rstrip("\r\n"))  # or a missing end is of the next line
        except json.JSONDecodeError as error:
            yield Record(place, f"this is no JSON ({error.msg}, character {error.colno})")
            continue
        except ValueError:  # a number of thousands of digits
            yield Record(place, "this is no JSON that can be read")
            continue
        except RecursionError:
            yield Record(place, "this is nested too deeply")
            continue
        yield Record(place, fields if isinstance(fields, dict) else "this is no JSON object")


def csv_records(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """Yield the rows of columns under a header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            if header is None:  # the next line would be taken for it
                raise ValueError(f"{place}, the names of the columns: {error}.") from None
            yield Record(place, str(error))
            continue
        if row is None:
            return
        if header is None:
            is_blank = not any(name.strip() for name in row)
            header = None if is_blank else header_of(row)
        elif any(field.strip() for field in row):
            if len(row) != len(header):
                words = f"it has {len(row)} fields, and the header has {len(header)}"
                yield Record(place, words)
            else:
                named = zip(header, row, strict=True)
                yield Record(place, {name: value for name, value in named if value != ""})


def header_of(row: list[str]) -> list[str]:
    """Return the names of columns.

    Raises:
        ValueError: two have the same name.
    """
    names = [name.strip() for name in row]
    twice = [name for number, name in enumerate(names) if name and name in names[:number]]
    if twice:
        raise ValueError(
            f"two columns are called {twice[0]!r}: rename one of them, so that it is clear which "
            "is meant."
        )
    return names


# -- one item ----------------------------------------------------------


def read_item(
    number: int,
    record: Record,
    names: Mapping[str, str],
    position: int = -1,
    folder: Path | None = None,
) -> Item:
    """Return an item, checked as far as it can be without a model.

    Args:
        number: Which of all items it is.
        record: What it says.
        names: What it calls each field.
        position: Where it names none.
        folder: In which the paths of images begin; None for the one that the process runs in.

    Raises:
        ValueError: why it is none, in words without a full stop.
    """
    fields = record.fields
    if isinstance(fields, str):
        raise ValueError(fields)
    values = {name: fields.get(given) for name, given in names.items()}
    for name in ("prompt", "target"):
        if values[name] is None or is_missing(values[name]):
            present = ", ".join(map(repr, fields)) or "none"
            raise ValueError(f"there is no {names[name]!r}; its fields are {present}")
    prompt = plain(values["prompt"])
    if isinstance(prompt, str) and not prompt:
        raise ValueError("the prompt is empty")
    against = values["against"]
    return Item(
        number=number,
        place=record.place,
        prompt=prompt,
        target=spellings(values["target"], names["target"]),
        against=() if is_missing(against) else spellings(against, names["against"]),
        group=label(values["group"]),
        cluster=label(values["cluster"]),
        id=label(values["id"]) or str(number),
        position=position_of(values["position"], position),
        images=images_of(values["images"], names["images"], folder),
    )


def is_missing(value: Any) -> bool:
    """Tell whether a field says nothing: it is not there, or a frame's "not a number"."""
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas, which need not be here
        return True
    return value is None or (isinstance(value, float | np.floating) and bool(value != value))


def plain(value: Any) -> Any:
    """Return arrays and tensors as lists, so that all of an item tells it from others.

    Of a long array only the ends are written.
    """
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    if isinstance(value, list | tuple | Iterator):
        return [plain(part) for part in value]
    return value


def spellings(value: Any, name: str) -> tuple[Any, ...]:
    """Return an answer as its spellings.

    Raises:
        ValueError: it is no text, no token id, and no list of them.
    """
    given = value.tolist() if hasattr(value, "tolist") else value
    several = list(given) if isinstance(given, list | tuple) else [given]
    if not several:
        raise ValueError(f"{name!r} is an empty list")
    for spelling in several:
        if not isinstance(spelling, str) and not is_token_id(spelling):
            raise ValueError(f"{name!r} is {shortened(spelling)}, no text and no token id")
    return tuple(dict.fromkeys(several))


def images_of(value: Any, name: str, folder: Path | None = None) -> tuple[Any, ...]:
    """Return the images of an item, paths of a file's items from that file's folder on.

    Raises:
        ValueError: it is no image, and no list of them.
    """
    if is_missing(value):
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):  # in a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"{name!r} is {shortened(value)}, no list in JSON") from None
    several = [value] if is_image(value) else value
    if not isinstance(several, list | tuple) or not all(is_image(image) for image in several):
        raise ValueError(f"{name!r} is {shortened(value)}, no image and no list of them")
    images = []
    for image in several:
        if folder is not None and isinstance(image, str | os.PathLike):
            image = str(folder / path_of(image))
        images.append(image)
    return tuple(images)


def folder_of(items: Any) -> Path | None:
    """Return the folder of the file that items are in; None where they are in none."""
    if not isinstance(items, str | os.PathLike) or names_own_set(str(items)):
        return None
    return Path(os.path.expanduser(items)).parent


def label(value: Any) -> str:
    """Return the name of a group or a cluster; "" for none."""
    return "" if is_missing(value) else str(value)


def position_of(value: Any, otherwise: int) -> int | Place:
    """Return at which token an answer is looked for; `otherwise` where nothing is said.

    Raises:
        ValueError: it is no whole number, and no place that is named by text.
    """
    if is_missing(value):
        return otherwise
    if isinstance(value, Mapping):
        return as_place(value)
    if isinstance(value, str) and WHOLE_NUMBER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a frame's column in which some are missing
    if not is_token_id(value):
        raise ValueError(f"the position is {shortened(value)}, no whole number")
    return int(value)
