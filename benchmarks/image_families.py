"""Every class of transformers that reads images, built small and read with one: `python benchmarks/image_families.py`.

Walks `AutoModelForImageTextToText` from end to end. A type of tests/tiny_images.py has a processor made by hand. Any
other gets the shrunken config of `families.py`, and a processor out of its own classes as far as pillow alone makes one,
set to the sizes of that config. `logit_lens()` then reads a prompt with an image at every layer and position, beside the
early-exit oracle of the tests, and another image must give other numbers. `families.py --write` puts the outcome on its
page.

Verdicts as in `families.py`: certified, refused, wrong, crashed, not built.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import collections
import dataclasses
import importlib
import inspect
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import oracle  # noqa: E402
import tiny  # noqa: E402
import tiny_images  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from families import SECONDS, _at_most, _one_line, _one_thread, _quiet, _refusal  # noqa: E402
from PIL import Image  # noqa: E402
from small_models import build  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402
from transformers.models.auto import (  # noqa: E402
    image_processing_auto,
    modeling_auto,
    processing_auto,
)

import lens_recipes as lr  # noqa: E402

FAMILIES = dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
BY_HAND = {name.replace("blip_2", "blip-2"): make for name, make in tiny_images.FAMILIES.items()}
# Where a type shares the processor of another, and the mapping does not say so.
PROCESSORS = {"glmga": "Glm46VProcessor", "glm_ocr": "Glm46VProcessor"}
IMAGE_PROCESSORS = {
    "qwen3_vl_moe": "Qwen2VLImageProcessorPil",
    "glm4v_moe": "Glm4vImageProcessorPil",
    "glm_ocr": "Glm46VImageProcessorPil",
}
NESTED = ("Idefics", "SmolVLM", "Mllama")  # their processors want a list of images for each text
WORDS = ["USER", ":", "what", "is", "this", "?", "ASSISTANT"]
VOCAB = 101  # of the shrunken configs
PILLOW_ALONE = "it has no image processor that works with pillow alone"
MOST_TOKENS = 2000  # of one image: more of them would take minutes


@dataclasses.dataclass
class Row:
    """One family: what the lens said to an image, and what that is worth."""

    family: str
    cls: str
    verdict: str = ""
    reason: str = ""
    image_tokens: int = 0
    seconds: float = 0.0


class NotBuilt(Exception):
    """No small model with a processor can be made here, and why."""


def picture(seed: int) -> Image.Image:
    """A small image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# -- a model and its processor -----------------------------------------


def made(family: str, cls: str) -> tuple[PreTrainedModel, Any]:
    """A small model, and its processor or None, with nothing left at a value that hides a mistake."""
    if family not in BY_HAND:
        return build(family, cls), None
    module, processor = BY_HAND[family]()
    with torch.no_grad():
        tiny.unsettle(module, seed=1)
    return module, processor


def processor_for(family: str, module: PreTrainedModel) -> Any:
    """A processor out of a type's own classes, set to the sizes of a shrunken config."""
    name = PROCESSORS.get(family) or processing_auto.PROCESSOR_MAPPING_NAMES.get(family)
    kind = getattr(transformers, name or "", None)
    if kind is None:
        raise NotBuilt("it has no processor of its own")
    names = image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(family)
    pillow_kind = IMAGE_PROCESSORS.get(family)
    if pillow_kind is None and isinstance(names, Mapping):
        pillow_kind = names.get("pil")
    if pillow_kind is None:
        raise NotBuilt(PILLOW_ALONE)
    try:
        images = image_processor(getattr(transformers, pillow_kind), module.config)
        settings = processor_settings(kind, module.config)
        settings["image_processor"] = images
        if "video_processor" in inspect.signature(kind.__init__).parameters:
            settings["video_processor"] = None
        return with_marks(kind, settings)
    except Exception as error:
        raise NotBuilt(f"its processor: {_one_line(error)[:120]}") from error


def with_marks(kind: type, settings: dict[str, Any]) -> Any:
    """A processor whose tokenizer has each mark that its class asks it for."""
    made_up: dict[str, str] = {}
    while True:
        tokenizer = tokenizer_for(kind, made_up)
        try:
            return without_video(kind)(**settings, tokenizer=tokenizer)
        except Exception as error:
            asked = re.search(r"attribute '?(\w+?_token)(_id)?\b", str(error))
            if asked is None or asked[1] in made_up:
                raise
            made_up[asked[1]] = f"<{asked[1]}>"


def without_video(kind: type) -> type:
    """A class of processors that may lack its video processor, which would need torchvision."""
    order = [
        name
        for name in inspect.signature(kind.__init__).parameters
        if name in ("image_processor", "tokenizer", "video_processor")
    ]

    class Still(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return order

        def check_argument_for_proper_class(self, name: str, argument: Any) -> None:
            return None

    Still.__name__ = kind.__name__
    return Still


def vision_settings(config: Any) -> dict[str, Any]:
    """What the config of the part that sees says."""
    for name in ("vision_config", "vq_config", "perceiver_config"):
        found = getattr(config, name, None)
        if found is not None:
            return found.to_dict()
    return {}


def whole(value: Any, otherwise: int) -> int:
    """A size as one number."""
    if isinstance(value, list | tuple):
        value = value[0]
    return value if isinstance(value, int) else otherwise


def image_processor(kind: type, config: Any) -> Any:
    """An image processor of the sizes of a config."""
    vision = vision_settings(config)
    side, patch = whole(vision.get("image_size"), 8), whole(vision.get("patch_size"), 4)
    merge = vision.get("spatial_merge_size", getattr(config, "spatial_merge_size", 2))
    default = getattr(kind, "size", None) or {}
    if "longest_edge" in default and "shortest_edge" in default:
        size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    elif "shortest_edge" in default:
        size = {"shortest_edge": side}
    elif "longest_edge" in default:
        size = {"longest_edge": side}
    else:
        size = {"height": side, "width": side}
    settings = {"size": size, "patch_size": patch, "merge_size": merge}
    if getattr(kind, "crop_size", None) is not None:
        settings["crop_size"] = {"height": side, "width": side}
    if "temporal_patch_size" in vision:
        settings["temporal_patch_size"] = vision["temporal_patch_size"]
    return kind(**settings)


def processor_settings(kind: type, config: Any) -> dict[str, Any]:
    """What a processor is told of the model's sizes, by the names of its arguments."""
    vision = vision_settings(config)
    side, patch = whole(vision.get("image_size"), 8), whole(vision.get("patch_size"), 4)
    known = {
        "patch_size": patch,
        "vision_feature_select_strategy": getattr(
            config, "vision_feature_select_strategy", "default"
        ),
        "num_additional_image_tokens": 1,
        "image_seq_length": (side // patch) ** 2,
        "num_image_tokens": (side // patch) ** 2,
        "image_seq_len": (side // patch) ** 2,
        "chat_template": None,
    }
    taken = inspect.signature(kind.__init__).parameters
    return {name: value for name, value in known.items() if name in taken}


def tokenizer_for(kind: type, more: Mapping[str, str]) -> Any:
    """A tokenizer of words, with every mark that a processor's own code names."""
    source = inspect.getsource(importlib.import_module(kind.__module__))
    marks = re.findall(r"""["'](<[^"'\s{}]{1,40}>|\[[A-Z_]{2,20}\])["']""", source)
    marks += ["<image>", *more.values()]
    marks = list(dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *marks]))
    if len(marks) + len(WORDS) > VOCAB:
        raise NotBuilt("its processor has more marks than the small vocabulary")
    vocabulary = {token: number for number, token in enumerate([*marks, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(marks)
    named = {"image_token": "<image>", **more}
    for role in ("image", "video", "boi", "eoi", "vision_bos", "vision_eos"):
        found = re.search(rf"""{role}_token\s*=\s*["'](<[^"']+>)["']""", source)
        if found and found[1] in vocabulary:
            named[f"{role}_token"] = found[1]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        extra_special_tokens=named,
    )
    for role, token in named.items():  # where a class gives it no attribute
        setattr(tokenizer, f"{role}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def settle_ids(module: PreTrainedModel, processor: Any) -> None:
    """Let a model look for the marks that its processor puts into a prompt."""
    tokenizer = processor.tokenizer
    features = getattr(module.config, "vision_feature_layers", None)
    if isinstance(features, list):  # of more layers than the small tower has
        module.config.vision_feature_layers = [-1] * len(features)
    for role in ("image", "video", "vision_start", "vision_end", "boi", "eoi"):
        mark = getattr(processor, f"{role}_token", None)
        if mark is None and role.startswith("vision"):
            mark = f"<|{role}|>"
        number = tokenizer.convert_tokens_to_ids(str(mark))
        if number is None or number == tokenizer.unk_token_id:
            continue
        for config in {id(each.config): each.config for each in module.modules() if hasattr(each, "config")}.values():  # fmt: skip
            for name in (f"{role}_token_id", f"{role}_token_index"):
                if hasattr(config, name):
                    setattr(config, name, number)


def mark_of(processor: Any) -> str:
    """What stands for an image in a text before the processor has run."""
    if type(processor).__name__.startswith("Gemma3"):
        return processor.boi_token
    return getattr(processor, "image_token", None) or ""


def inputs_of(processor: Any, text: str, image: Image.Image) -> dict[str, Any]:
    """What a processor makes of a prompt with an image."""
    images: Any = [image]
    if type(processor).__name__.startswith(NESTED):
        images = [images]
    return dict(processor(text=[text], images=images, return_tensors="pt"))


# -- verdicts ----------------------------------------------------------


def examine(family: str) -> Row:
    """Build one type, read it with an image, compare it."""
    row = Row(family, FAMILIES[family])
    started = time.perf_counter()
    with _quiet(), _at_most(SECONDS), _one_thread():
        try:
            judge(row)
        except lr.LensError as error:
            row.verdict, row.reason = "refused", _refusal(error, row.cls)
        except NotBuilt as error:
            row.verdict, row.reason = "not built", str(error)
        except Exception as error:
            row.verdict, row.reason = "crashed", f"{type(error).__name__}: {_one_line(error)}"
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def judge(row: Row) -> None:
    """Fill the verdict of a row; what is raised is one, too."""
    try:
        module, processor = made(row.family, row.cls)
    except Exception as error:
        raise NotBuilt(_one_line(error)) from error
    lr.anatomy(lr.load(module))  # one that is refused on text needs no processor
    if processor is None:
        processor = processor_for(row.family, module)
        try:
            settle_ids(module, processor)
        except Exception as error:
            raise NotBuilt(f"its marks: {_one_line(error)[:120]}") from error
    model = lr.load(module, processor=processor)
    mark = tiny_images.SLOTS.get(row.family) or mark_of(processor)
    text = f"USER: {mark} what? ASSISTANT:"
    if row.family != "mllama":  # its oracle is that of text
        exits, own = by_hand(module, processor, text, row)
    found = lr.logit_lens(model, text, images=picture(0), top_k=4)
    other = lr.logit_lens(model, text, images=picture(1), top_k=4)
    row.verdict = "certified"
    difference = compared(found, oracle.metrics(exits, own, k=4))
    if not difference and np.abs(found.entropy - other.entropy).max() < 1e-6:
        difference = "another image changes nothing"
    if difference:
        row.verdict, row.reason = "wrong", difference


def by_hand(module: PreTrainedModel, processor: Any, text: str, row: Row) -> Any:
    """The early exits of a model with what its processor makes, run without this package."""
    try:
        inputs = inputs_of(processor, text, picture(0))
        token = getattr(module.config, "image_token_id", None)
        row.image_tokens = int((inputs["input_ids"] == token).sum())
        if row.image_tokens > MOST_TOKENS:
            raise NotBuilt(f"its processor makes {row.image_tokens} tokens of a small image")
        given = {
            name: value
            for name, value in inputs.items()
            if name in inspect.signature(module.forward).parameters
        }
        exits, own = oracle.image_exit_logits(module, given)
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(
            f"with an image: {type(error).__name__}: {_one_line(error)[:120]}"
        ) from error
    if not row.image_tokens:
        raise NotBuilt("its processor leaves no image tokens in the prompt")
    return exits, own


def compared(found: lr.LensResult, expected: dict[str, np.ndarray]) -> str:
    """Where a result differs from the oracle; nothing if nowhere."""
    if found.top_logprobs.shape != expected["top_logprobs"].shape:
        shape = expected["top_logprobs"].shape
        return f"{found.top_logprobs.shape} was read, the oracle has {shape}"
    for name in ("top_logprobs", "entropy", "kl_to_final"):
        ours, theirs = getattr(found, name), expected[name]
        if not np.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
            return f"{name} differ by {np.abs(ours - theirs).max():.2g}"
    return ""


# -- the page ----------------------------------------------------------

SECTION = """
## Multimodal models, with images

All types of `AutoModelForImageTextToText` again, each with an image through its own processor, made from classes with
pillow alone: {summary}.

{lines}
"""


def summary(rows: list[Row]) -> str:
    """How many types, and how many of each verdict."""
    counts = collections.Counter(row.verdict for row in rows)
    order = ("certified", "refused", "wrong", "crashed", "not built")
    return f"{len(rows)} types: " + ", ".join(f"{counts[name]} {name}" for name in order)


def short(row: Row) -> str:
    """The reason of a row, in the words that it shares with others."""
    if row.verdict != "not built":
        return row.reason.replace(row.cls, "it").rstrip(".")
    for package in ("torchvision", "num2words", "timm"):
        if package in row.reason:
            return PILLOW_ALONE if package == "torchvision" else f"it needs {package}"
    if row.reason.startswith(("with an image", "its processor", "its marks")):
        return "the processor made here does not fit the small model made here"
    return row.reason


def section(rows: list[Row]) -> str:
    """The part of references/architectures.md about images."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in sorted(rows, key=lambda row: row.family):
        reason = short(row).replace("|", "\\|")
        name = row.family
        if row.verdict == "certified":
            name += f" ({row.image_tokens})"
        by_reason.setdefault((row.verdict, reason), []).append(name)
    order = ["certified", "wrong", "crashed", "refused", "not built"]
    lines = []
    for (verdict, reason), names in sorted(by_reason.items(), key=lambda item: order.index(item[0][0])):  # fmt: skip
        why = ", with so many image tokens" if verdict == "certified" else f", {reason}"
        lines.append(f"- **{verdict}**{why}: {', '.join(names)}.")
    return SECTION.format(summary=summary(rows), lines="\n".join(lines))


def walk(only: list[str] | None = None) -> list[Row]:
    """Every type, or a few."""
    return [examine(family) for family in sorted(FAMILIES) if not only or family in only]


def main() -> int:
    """Walk and print; 1 where something is wrong or crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="model types to walk")
    rows = walk(parser.parse_args().only)
    for row in rows:
        print(f"{row.seconds:6.2f} s  {row.verdict:<9} {row.family} ({row.image_tokens}): {row.reason}")  # fmt: skip
    print(summary(rows))
    return int(any(row.verdict in ("wrong", "crashed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
