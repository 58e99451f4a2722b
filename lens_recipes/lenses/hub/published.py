"""A table of published lenses: in which repository, and under which name, a model's lens is.

`neuronpedia/jacobian-lens` keeps `<folder>/jlens/Salesforce-wikitext/<name>_jacobian_lens.pt`,
where the name is that of the model on the hub. Written here is what was seen there; every other
file is found by its name in the repository's list of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

JACOBIAN_LENSES = "neuronpedia/jacobian-lens"
TUNED_LENSES = "AlignmentResearch/tuned-lens"  # a space, not a repository of models

CORPUS = "jlens/Salesforce-wikitext"
JACOBIAN_NAME = re.compile(r"(.+)_jacobian_lens(?:_n(\d{1,7}))?\.pt")

MANY_PROMPTS = "qwen-n1000"  # the revision with the lenses that were fitted on 1000 prompts


class Published(NamedTuple):
    """A file in a repository.

    Attributes:
        file: Its path there.
        revision: The branch or commit; None for the main one.
    """

    file: str
    revision: str | None = None


def _many_prompts(folder: str, name: str) -> Published:
    """Return the file of a lens that was fitted on 1000 prompts."""
    return Published(f"{folder}/{CORPUS}/{name}_jacobian_lens_n1000.pt", MANY_PROMPTS)


def _plain(folder: str, name: str) -> Published:
    """Return the file of a lens under its model's name."""
    return Published(f"{folder}/{CORPUS}/{name}_jacobian_lens.pt")


# The lens of a model by the model's hub id: those that are known to be there. The one of
# Qwen3.6-27B under the plain name is a lens of gpt-oss-20b.
JACOBIAN_FILES = {
    "EleutherAI/pythia-70m-deduped": _plain("pythia-70m-deduped", "pythia-70m-deduped"),
    "Qwen/Qwen2.5-7B-Instruct": _plain("qwen2.5-7b-it", "Qwen2.5-7B-Instruct"),
    "Qwen/Qwen3-4B": _plain("qwen3-4b", "Qwen3-4B"),
    "Qwen/Qwen3-8B": _plain("qwen3-8b", "Qwen3-8B"),
    "Qwen/Qwen3.5-4B": _many_prompts("qwen3.5-4b", "Qwen3.5-4B"),
    "Qwen/Qwen3.5-9B-Base": _plain("qwen3.5-9b-pt", "Qwen3.5-9B-Base"),
    "Qwen/Qwen3.6-27B": _many_prompts("qwen3.6-27b", "Qwen3.6-27B"),
    "google/gemma-3-4b-it": _plain("gemma-3-4b-it", "gemma-3-4b-it"),
    "google/gemma-3-12b-it": _plain("gemma-3-12b-it", "gemma-3-12b-it"),
    "google/gemma-3-27b-it": _plain("gemma-3-27b-it", "gemma-3-27b-it"),
}

# Models whose lens is under another name than theirs.
OTHER_NAMES = {"gpt2": "gpt2-small"}


def jacobian_file(model: str) -> Published | None:
    """Return the file that is known to be a model's Jacobian lens, or None."""
    for name, published in JACOBIAN_FILES.items():
        if name.lower() == model.lower():
            return published
    return None


def find_jacobian_file(model: str, files: Iterable[str]) -> str | None:
    """Return the file of a repository that is named as a model's Jacobian lens.

    Args:
        model: The model's hub id.
        files: All files of the repository.

    Returns:
        The one that was fitted on most prompts, where there are several; None where there is none.
    """
    base_name = model.rpartition("/")[2].lower()
    names = {base_name, OTHER_NAMES.get(base_name, base_name)}
    found: list[tuple[int, str]] = []
    for file in files:
        match = JACOBIAN_NAME.fullmatch(PurePosixPath(file).name)
        if match is not None and match[1].lower() in names:
            found.append((int(match[2] or 0), file))
    return max(found)[1] if found else None


def tuned_folders(model: str) -> list[str]:
    """Return where a model's tuned lens may be: old folders have the name without its owner."""
    names = dict.fromkeys([model, model.rpartition("/")[2]])
    return [f"lens/{name}" for name in names]
