"""Read a file of prompts, each with its own targets; a mistake in it is told with its line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

JSON_LINES = (".jsonl", ".ndjson")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
ACCEPTED = (
    'Accepted are .jsonl (a line like {"prompt": "The capital of France is", "target": " Paris"}, '
    'or "targets" with a list), and .csv or .tsv with the columns prompt and target.'
)

Target = str | int


class PromptLine(NamedTuple):
    """One prompt of a file, its targets, and the line of the file that it begins in."""

    number: int
    prompt: str
    targets: list[Target]


def read_prompt_file(path: Path, *, needs_targets: bool) -> list[PromptLine]:
    """Return the prompts of a file with their targets; every prompt has equally many.

    Args:
        path: Ends in .jsonl (or .ndjson), .csv or .tsv.
        needs_targets: Whether the file must hold them. If not, it must not.

    Raises:
        ValueError: the file is something else, holds no prompt, or has a mistake in a line.
        OSError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        read: Callable[[str], Iterator[PromptLine]] = json_lines
    elif suffix in DELIMITERS:
        read = csv_lines(DELIMITERS[suffix], needs_targets)
    else:
        raise ValueError(f"{str(path)!r} is no file of prompts. {ACCEPTED}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error.reason}.") from None
    try:
        lines = list(read(text))
        if not lines:
            raise ValueError(f"there is no prompt in it. {ACCEPTED}")
        check_targets(lines, needs_targets)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return lines


def check_targets(lines: list[PromptLine], needs_targets: bool) -> None:
    """Check that each prompt has as many targets as the first, or none where none are wanted.

    Raises:
        ValueError: one has not; the message names its line.
    """
    first = lines[0]
    for line in lines:
        if not needs_targets and line.targets:
            raise ValueError(
                f"line {line.number}: this prompt has a target of its own. Leave --target out, or "
                "take the targets out of the file."
            )
        if needs_targets and not line.targets:
            raise ValueError(
                f"line {line.number}: this prompt has no target. Each prompt of the file needs "
                "one; or give --target for all of them."
            )
        if len(line.targets) != len(first.targets):
            raise ValueError(
                f"line {line.number}: this prompt has {counted_targets(line)}, and the one in "
                f"line {first.number} has {counted_targets(first)}. All need the same number."
            )


def counted_targets(line: PromptLine) -> str:
    """Return how many targets a prompt has, in words."""
    return "1 target" if len(line.targets) == 1 else f"{len(line.targets)} targets"


# -- JSON lines --------------------------------------------------------


def json_lines(text: str) -> Iterator[PromptLine]:
    """Yield the prompts of a text with a JSON object on each line; empty lines are passed over.

    Raises:
        ValueError: a line is no such object.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"line {number}, character {error.colno}: this is no JSON ({error.msg}). Expected "
                'is one object on the line, like {"prompt": "The capital of France is", "target": '
                '" Paris"}.'
            ) from None
        except RecursionError:
            raise ValueError(f"line {number}: this is nested too deeply.") from None
        yield PromptLine(number, json_prompt(record, number), json_targets(record, number))


def json_prompt(record: Any, number: int) -> str:
    """Return the prompt of one line.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(record, dict):
        raise ValueError(
            f'line {number}: this is no object. Expected is one like {{"prompt": "…", "target": '
            '" …"}.'
        )
    if "prompt" not in record:
        raise ValueError(f'line {number}: there is no "prompt"; its keys are {names(record)}.')
    return checked_prompt(record["prompt"], number)


def json_targets(record: dict[str, Any], number: int) -> list[Target]:
    """Return the targets of one line: of "target" or "targets"; none where it has neither.

    Raises:
        ValueError: it has both, or something that is no text and no token id.
    """
    if "target" in record and "targets" in record:
        raise ValueError(f'line {number}: it has "target" and "targets": leave one out.')
    if "target" in record:
        targets = [record["target"]]
    elif "targets" in record:
        targets = record["targets"]
        if not isinstance(targets, list) or not targets:
            raise ValueError(
                f'line {number}: "targets" is a list of one or more texts; received '
                f"{shortened(targets)}."
            )
    else:
        return []
    for target in targets:
        is_id = isinstance(target, int) and not isinstance(target, bool)
        if not is_id and not isinstance(target, str):
            raise ValueError(
                f"line {number}: a target is a text or a token id; received {shortened(target)}."
            )
    return targets


# -- columns -----------------------------------------------------------


def csv_lines(delimiter: str, needs_targets: bool) -> Callable[[str], Iterator[PromptLine]]:
    """Return what reads a text of columns under a header."""

    def read(text: str) -> Iterator[PromptLine]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        number = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"line {number}: {error}.") from None
            if row is None:
                return
            if header is None:
                header = [name.strip() for name in row]
                check_header(header, needs_targets)
            elif any(field.strip() for field in row):
                yield csv_line(header, row, number)
            number = reader.line_num + 1  # a field may hold line breaks

    return read


def check_header(header: list[str], needs_targets: bool) -> None:
    """Check that the columns that are read are there.

    Raises:
        ValueError: one is missing; the message lists those that are there.
    """
    needed = ["prompt", "target"] if needs_targets else ["prompt"]
    missing = [name for name in needed if name not in header]
    if not missing:
        return
    advice = ""
    if missing == ["target"]:
        advice = " Without it, give --target for all prompts."
    raise ValueError(
        f"line 1: there is no column {missing[0]!r}; its columns are {names(header)}.{advice}"
    )


def csv_line(header: list[str], row: list[str], number: int) -> PromptLine:
    """Return one row.

    Raises:
        ValueError: it has more or fewer fields than the header, or no prompt.
    """
    if len(row) != len(header):
        raise ValueError(
            f"line {number}: it has {len(row)} fields, and the header has {len(header)}. A field "
            "that holds the separator, a quotation mark or a line break stands in quotation marks."
        )
    record = dict(zip(header, row, strict=True))
    targets: list[Target] = []
    if record.get("target"):
        targets = [record["target"]]
    return PromptLine(number, checked_prompt(record["prompt"], number), targets)


# -- both --------------------------------------------------------------


def checked_prompt(prompt: Any, number: int) -> str:
    """Return a prompt that is a text and not empty.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"line {number}: a prompt is a text; received {shortened(prompt)}.")
    if not prompt:
        raise ValueError(f"line {number}: the prompt is empty.")
    return prompt


def names(values: Any) -> str:
    """Return names in quotation marks; "none" for none."""
    return ", ".join(repr(name) for name in values) or "none"


def shortened(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
