"""`lens_evals()`: the evaluation sets of the Jacobian-lens paper, as items of a survey.

Source: Gurnee, Sofroniew, Lindsey et al. 2026, "Verbalizable Representations Form a Global
Workspace in Language Models". The files are published with it; this package has none of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lens_recipes.recipes.survey.sets.spellings import expanded, written_variants
from lens_recipes.run.request.prompts import shortened

PREFIX, SUFFIX = "lens-eval-", ".json"

# Where each set is read: before the text of its "target", at the last line break, or at the end.
BEFORE_TARGET, LAST_NEWLINE, LAST_TOKEN = "before target", "last newline", "last token"
READ_AT = {
    "multihop": BEFORE_TARGET,
    "multilingual": BEFORE_TARGET,
    "order-ops": BEFORE_TARGET,
    "poetry": LAST_NEWLINE,
    "association": LAST_TOKEN,
    "typo": LAST_TOKEN,
}
WITH_SYNONYMS = ("order-ops",)  # an intermediate stands for its words and its symbols


def lens_evals(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the items of the Jacobian-lens paper's evaluation sets, for `survey`.

    Each intermediate is an item of its own, and looked for at the token that the paper reads:
    multihop, multilingual and order-ops at the token before "target" would come, poetry at the
    last line break, association and typo at the last token. "target" is nothing else: the model's
    own answer is not asked for.

    Its spellings are the word as it is and with its first letter the other case, each with and
    without a space before it. In order-ops a number is its digits and its word as well, and an
    operation its words and symbols; the paper gives no list of these, so ours may differ from its
    own. Spellings that are several tokens do not count. An intermediate that has no other is left
    out, as `survey` tells, and the paper's item rests on its others.

    In each item "group" is the set, and "cluster" the paper's item, so that `pass_at_k` is the
    paper's measure: the mean over its items of the share of intermediates that are found.

    Args:
        path: The folder with the files lens-eval-multihop.json and so on (those that are there are
            read, in the order of the paper), or one of these files.

    Raises:
        ValueError: there is no such file, or what it holds is not of this form.

    Example:
        >>> items = lens_evals("jacobian-lens/data/evaluations")
        >>> pass_at_k(survey(model, items, lens="lens.pt"), group="multihop")
    """
    items: list[dict[str, Any]] = []
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"received {shortened(path)} as a path; accepted is that of a folder.")
    try:
        found = eval_files(Path(os.path.expanduser(path)))
    except OSError as error:  # such as a name that is too long
        words = f"{shortened(str(path))} cannot be read: {error.strerror or error}."
        raise ValueError(words) from None
    for name, file in found:
        items.extend(set_items(name, read_records(file), str(file)))
    return items


def holds_evals(path: Path) -> bool:
    """Tell whether a path is that of an evaluation set, or of a folder that has some."""
    if path.is_dir():
        return any(path.glob(f"{PREFIX}*{SUFFIX}"))
    return path.name.startswith(PREFIX) and path.suffix == SUFFIX


def eval_files(path: Path) -> list[tuple[str, Path]]:
    """Return the sets that are at a path, each with its file.

    Raises:
        ValueError: there are none.
    """
    known = ", ".join(f"{PREFIX}{name}{SUFFIX}" for name in READ_AT)
    if not path.is_dir():
        name = path.name.removeprefix(PREFIX).removesuffix(SUFFIX)
        if path.name != f"{PREFIX}{name}{SUFFIX}" or name not in READ_AT:
            raise ValueError(
                f"{str(path)!r} is neither a folder nor one of the files {known}. A file's name "
                "tells at which token its prompts are read."
            )
        return [(name, path)]
    found = []
    for name in READ_AT:
        file = path / f"{PREFIX}{name}{SUFFIX}"
        if file.is_file():
            found.append((name, file))
    if not found:
        raise ValueError(f"{str(path)!r} has none of the files {known}.")
    return found


def read_records(file: Path) -> list[Any]:
    """Return what stands under "items" in a file.

    Raises:
        ValueError: the file cannot be read, or is of another form.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}.") from None
    records = content.get("items") if isinstance(content, dict) else None
    if not isinstance(records, list) or not records:
        raise ValueError(
            f"{str(file)!r} is no evaluation set: expected is an object with a list of items, "
            f'{{"items": [{{"name": …, "prompt": …, "intermediates": […]}}]}}; received '
            f"{shortened(content)}."
        )
    return records


def set_items(name: str, records: list[Any], file: str) -> list[dict[str, Any]]:
    """Return the items of one set, one for each intermediate.

    Args:
        name: Of the set.
        records: As they stand in the file.
        file: Where that is, for messages.

    Raises:
        ValueError: a record is of another form.
    """
    items: list[dict[str, Any]] = []
    clusters: set[str] = set()
    for number, record in enumerate(records):
        try:
            check_record(name, record)
        except ValueError as error:
            raise ValueError(f"{file!r}, item {number}: {error}.") from None
        cluster = f"{name}/{record['name']}"
        if cluster in clusters:
            cluster = f"{cluster} ({number})"
        clusters.add(cluster)
        for word in dict.fromkeys(record["intermediates"]):
            items.append(
                {
                    "id": f"{cluster}/{word}",
                    "prompt": record["prompt"],
                    "target": spellings_of(word, name),
                    "group": name,
                    "cluster": cluster,
                    "position": position_in(name, record),
                }
            )
    return items


def check_record(name: str, record: Any) -> None:
    """Check that a record of a set is of the form that it should be.

    Raises:
        ValueError: it is not, in words without a full stop.
    """
    if not isinstance(record, dict):
        raise ValueError(f"this is {shortened(record)}, no object")
    needed = ["name", "prompt"]
    if READ_AT[name] == BEFORE_TARGET:
        needed.append("target")
    for field in needed:
        text = record.get(field)
        if not isinstance(text, str) or not text:
            raise ValueError(f"its {field!r} must be a text that is not empty: {shortened(text)}")
    words = record.get("intermediates")
    are_texts = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
    if not are_texts or not words:
        raise ValueError(f"its 'intermediates' must be a list of words: {shortened(words)}")
    if READ_AT[name] == LAST_NEWLINE and "\n" not in record["prompt"]:
        raise ValueError("its prompt has no line break, which is where this set is read")


def position_in(name: str, record: dict[str, Any]) -> Any:
    """Return at which token of its prompt a record is read, as items of a survey say it."""
    if READ_AT[name] == BEFORE_TARGET:
        return {"before": record["target"]}
    if READ_AT[name] == LAST_NEWLINE:
        return {"at": "\n"}
    return -1


def spellings_of(word: str, name: str) -> list[str]:
    """Return the spellings of an intermediate, of which any counts."""
    forms = expanded(word) if name in WITH_SYNONYMS else [word]
    return list(dict.fromkeys(text for form in forms for text in written_variants(form)))
