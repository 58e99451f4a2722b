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


class Published(NamedTuple):
    """A file in a repository.

    Attributes:
        file: Its path there.
        revision: The branch or commit; None for the main one.
    """

    file: str
    revision: str | None = None


# The folder of each lens that was seen there, and the name of its model. Qwen3.5-2B and Qwen3.5-9B
# are in folders of the base models, and their files are theirs.
FOLDERS = {
    "gemma-2-27b": "gemma-2-27b",
    "gemma-2-2b": "gemma-2-2b",
    "gemma-2-2b-it": "gemma-2-2b-it",
    "gemma-2-9b": "gemma-2-9b",
    "gemma-2-9b-it": "gemma-2-9b-it",
    "gemma-3-12b": "gemma-3-12b-pt",
    "gemma-3-12b-it": "gemma-3-12b-it",
    "gemma-3-1b": "gemma-3-1b-pt",
    "gemma-3-1b-it": "gemma-3-1b-it",
    "gemma-3-270m": "gemma-3-270m",
    "gemma-3-270m-it": "gemma-3-270m-it",
    "gemma-3-27b": "gemma-3-27b-pt",
    "gemma-3-27b-it": "gemma-3-27b-it",
    "gemma-3-4b": "gemma-3-4b-pt",
    "gemma-3-4b-it": "gemma-3-4b-it",
    "gemma-4-31b": "gemma-4-31B",
    "gemma-4-e2b": "gemma-4-E2B",
    "gemma-4-e4b": "gemma-4-E4B",
    "gpt-oss-20b": "gpt-oss-20b",
    "gpt2-small": "gpt2",
    "llama3.1-8b": "Llama-3.1-8B",
    "llama3.1-8b-it": "Llama-3.1-8B-Instruct",
    "llama3.3-70b-it": "Llama-3.3-70B-Instruct",
    "olmo-3-1025-7b": "Olmo-3-1025-7B",
    "olmo-3-1125-32b": "Olmo-3-1125-32B",
    "pythia-70m-deduped": "pythia-70m-deduped",
    "qwen2.5-7b-it": "Qwen2.5-7B-Instruct",
    "qwen3-1.7b": "Qwen3-1.7B",
    "qwen3-14b": "Qwen3-14B",
    "qwen3-32b": "Qwen3-32B",
    "qwen3-4b": "Qwen3-4B",
    "qwen3-8b": "Qwen3-8B",
    "qwen3.5-0.8b": "Qwen3.5-0.8B",
    "qwen3.5-27b": "Qwen3.5-27B",
    "qwen3.5-2b-pt": "Qwen3.5-2B-Base",
    "qwen3.5-9b-pt": "Qwen3.5-9B-Base",
}

# Those of which a lens that was fitted on more prompts is to be preferred. The one of Qwen3.6-27B
# under the plain name is a lens of gpt-oss-20b.
PREFERRED = {
    "Qwen3.5-4B": Published(
        f"qwen3.5-4b/{CORPUS}/Qwen3.5-4B_jacobian_lens_n1000.pt", revision="qwen-n1000"
    ),
    "Qwen3.6-27B": Published(f"qwen3.6-27b/{CORPUS}/Qwen3.6-27B_jacobian_lens_n1000.pt"),
}


def jacobian_file(model: str) -> Published | None:
    """Return the file that is known to be a model's Jacobian lens, or None.

    Args:
        model: The model's hub id; its owner does not count.
    """
    wanted = base_name(model)
    for name, published in PREFERRED.items():
        if name.lower() == wanted:
            return published
    for folder, name in FOLDERS.items():
        if name.lower() == wanted:
            return Published(f"{folder}/{CORPUS}/{name}_jacobian_lens.pt")
    return None


def base_name(model: str) -> str:
    """Return the name of a model without its owner, in small letters."""
    return model.rpartition("/")[2].lower()


def find_jacobian_file(model: str, files: Iterable[str]) -> str | None:
    """Return the file of a repository that is named as a model's Jacobian lens.

    Args:
        model: The model's hub id.
        files: All files of the repository.

    Returns:
        The one that was fitted on most prompts, where there are several; None where there is none.
    """
    wanted = base_name(model)
    found: list[tuple[int, str]] = []
    for file in files:
        match = JACOBIAN_NAME.fullmatch(PurePosixPath(file).name)
        if match is not None and match[1].lower() == wanted:
            found.append((int(match[2] or 0), file))
    return max(found)[1] if found else None


def tuned_folders(model: str) -> list[str]:
    """Return where a model's tuned lens may be: old folders have the name without its owner."""
    names = dict.fromkeys([model, model.rpartition("/")[2]])
    return [f"lens/{name}" for name in names]
