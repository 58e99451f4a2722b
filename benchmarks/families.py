"""Every class of transformers that writes text, built small and read: `python benchmarks/families.py`.

Walks `AutoModelForCausalLM`, `AutoModelForMultimodalLM` (with all of `AutoModelForImageTextToText`) and
`AutoModelForSeq2SeqLM` from end to end. Each type gets a shrunken config, random weights, 2 × 8 random ids and nothing
else, `logit_lens()` and the early-exit oracle of the tests; then every layer is compared. `--json F` keeps the
verdicts, `--only NAME …` walks a few, `--write` renews references/architectures.md.

Verdicts:
    certified: the lens equals the oracle at every layer.
    refused: the library said no, with a reason.
    wrong: a result that differs from the oracle.
    crashed: something else than a LensError.
    no oracle: the oracle does not fit this model; what the lens said, judged by its own certificate, stands beside it.
    not built: no small model of this type could be made here.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import collections
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import oracle  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from small_models import build, prompts  # noqa: E402
from torch import nn  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

import lens_recipes as lr  # noqa: E402
from lens_recipes.arrays.attribution import UNITS  # noqa: E402
from lens_recipes.models.structure.block.blocks import residual_blocks  # noqa: E402

PAGE = ROOT / "references" / "architectures.md"
SECONDS = 60  # of the processor for one type: one that hangs must not stop the walk


def _not_in(mapping: dict[str, str], *before: dict[str, str]) -> dict[str, str]:
    """The types of a mapping whose class no mapping before it has for them."""
    return {
        family: cls
        for family, cls in mapping.items()
        if all(other.get(family) != cls for other in before)
    }


# What transformers has that writes text: the class of each type.
FAMILIES = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MULTIMODAL = _not_in(
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    | modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    FAMILIES,
)
TWO_SIDED = _not_in(
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, FAMILIES, MULTIMODAL
)
TABLES = {
    "Language models": FAMILIES,
    "Multimodal models, on text alone": MULTIMODAL,
    "Sequence-to-sequence models": TWO_SIDED,
}


def every_class() -> list[tuple[str, str]]:
    """Every type with its class, in the order of the page."""
    return [pair for mapping in TABLES.values() for pair in sorted(mapping.items())]


# -- verdicts ----------------------------------------------------------


@dataclasses.dataclass
class Row:
    """One family: where its parts are, what the lens said and what that is worth.

    `oracle` says why the oracle does not fit, and is empty where it does: what is refused then might be read.
    """

    family: str
    cls: str
    verdict: str = ""
    reason: str = ""
    blocks: str = ""
    norm: str = ""
    unembed: str = ""
    tail: str = ""
    adds: str = ""
    parts: str = ""
    oracle: str = ""
    seconds: float = 0.0  # of the walk; not on the page

    def line(self) -> str:
        """The family's line of the table."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        cells = [
            self.family,
            self.cls,
            self.blocks,
            self.norm,
            self.unembed,
            self.tail,
            self.adds,
            self.parts,
            verdict,
        ]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def examine(family: str, cls: str = "") -> Row:
    """Build one type, read it, compare it; `cls` where it is not its causal-LM class."""
    row = Row(family, cls or FAMILIES[family])
    started = time.perf_counter()
    with _quiet(), _at_most(SECONDS), _one_thread():
        _judge(row)
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def _judge(row: Row) -> None:
    try:
        module = build(row.family, row.cls)
        ids = prompts()
        runs = _runs(module, ids)
    except Exception as error:
        row.verdict, row.reason = "not built", _one_line(error)
        return
    said, result = _read(module, ids, row)
    try:
        expected, final = (
            _early_exits(module, ids, row.blocks),
            oracle.plain_logits(module, ids).numpy(),
        )
    except Exception as error:
        row.oracle = runs or _one_line(error)
    row.verdict = said
    if said == "certified" and row.oracle:
        row.verdict, row.reason = "no oracle", f"certified by its own certificate; {row.oracle}"
    elif said == "certified":
        row.reason = _difference(result, expected, final)
        row.verdict = "wrong" if row.reason else said
        if row.verdict == "certified":
            _take_apart(module, ids, final, row)


def _take_apart(module: PreTrainedModel, ids: torch.Tensor, final: np.ndarray, row: Row) -> None:
    """What a block adds, and how finely a logit can be split; every split must be the model's own logit."""
    model = lr.load(module)
    names = {
        name
        for block in residual_blocks(model)
        for name in block.components
        if not name.startswith("resid")
    }
    row.adds = ", ".join(sorted(names))
    for unit in UNITS:
        try:
            result = lr.attribution(model, ids, [47, 51], unit=unit)
        except lr.LensError:
            return
        except Exception as error:
            row.verdict, row.reason = (
                "crashed",
                f"attribution by {unit}: {type(error).__name__}: {_one_line(error)}",
            )
            return
        own = final.reshape(*ids.shape, -1)[:, -1, [47, 51]]
        scale = max(1.0, float(np.abs(result.values).max()))
        if (
            not np.allclose(result.capped_logit, own, atol=1e-3, rtol=1e-4)
            or result.error.max() > 1e-4 * scale
        ):
            row.verdict, row.reason = (
                "wrong",
                f"attribution by {unit} does not sum to the model's logit",
            )
            return
        row.parts = unit


def _early_exits(module: PreTrainedModel, ids: torch.Tensor, path: str) -> np.ndarray:
    """The oracle's logits [layer, batch, position, vocab]; of the blocks that the lens found, where it finds none."""
    try:
        return oracle.early_exit_logits(module, ids).numpy()
    except (LookupError, AttributeError):
        blocks = list(module.get_submodule(path).children()) if path else []
        if not blocks:
            raise
    if not _is_chain(module, ids, blocks):
        return oracle.handed_on_logits(module, blocks, ids).numpy()
    rows = []
    for layer in range(len(blocks)):
        with contextlib.ExitStack() as stack:
            for block in blocks[layer + 1 :]:
                stack.enter_context(oracle._switched_off(block))
            rows.append(oracle.plain_logits(module, ids))
    return torch.stack(rows).numpy()


def _is_chain(module: PreTrainedModel, ids: torch.Tensor, blocks: list[nn.Module]) -> bool:
    """Whether each block runs once and takes what the one before it gave, so that a block can be left out."""
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []

    def note(block: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        given = output if isinstance(output, torch.Tensor) else output[0]
        seen.append((block, oracle._hidden_input(args, kwargs).clone(), given.clone()))

    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(note, with_kwargs=True).remove)
        oracle.plain_logits(module, ids)
    once = [block for block, _, _ in seen] == blocks
    return once and all(torch.equal(one[2], two[1]) for one, two in itertools.pairwise(seen))


def _runs(module: PreTrainedModel, ids: torch.Tensor) -> str:
    """Why the model itself cannot be run on ids alone, or nothing."""
    try:
        logits = oracle.plain_logits(module, ids)
    except Exception as error:
        return f"does not run on ids alone: {_one_line(error)}"
    if not logits.isfinite().any():
        raise ValueError("its logits are not finite numbers")
    return ""


def _read(module: PreTrainedModel, ids: torch.Tensor, row: Row) -> tuple[str, lr.LensResult | None]:
    """What the lens says to a model, with the parts it found noted in the row."""
    try:
        model = lr.load(module)
        _note_parts(lr.anatomy(model), row)
        return "certified", lr.logit_lens(model, ids, targets=[47, 51], top_k=4)
    except lr.LensError as error:
        row.reason = _refusal(error, row.cls)
        return "refused", None
    except Exception as error:
        row.reason = f"{type(error).__name__}: {_one_line(error)}"
        return "crashed", None


def _refusal(error: lr.LensError, cls: str) -> str:
    """The words of a refusal, without the class name and without numbers that differ between machines."""
    failed = "its certificate fails: the last layer's lens is not the model's own output"
    return failed if "NOT CERTIFIED" in str(error) else _one_line(error).removeprefix(f"{cls}: ")


def _note_parts(parts: lr.Anatomy, row: Row) -> None:
    row.blocks, row.norm, row.unembed = parts.blocks, parts.norm or "none", parts.unembed
    plain = [parts.norm, parts.unembed] if parts.norm else [parts.unembed]
    if [str(operation) for operation in parts.tail] != plain:
        row.tail = next(
            line.partition(" tail ")[2].strip()
            for line in str(parts).splitlines()
            if line.startswith("whole tail")
        )


def _difference(result: lr.LensResult, expected: np.ndarray, final: np.ndarray) -> str:
    """Where a result differs from the oracle's logits [layer, batch, position, vocab]; nothing if nowhere."""
    if len(result.sites) != len(expected):
        return f"{len(result.sites)} layers were read, the oracle has {len(expected)}"
    expected = expected.reshape(len(expected), -1, expected.shape[-1])
    final = final.reshape(-1, final.shape[-1])
    for layer, logits in enumerate(expected):
        reference = oracle.metrics(logits, final, k=4)
        scale = max(1.0, float(np.abs(logits[np.isfinite(logits)]).max()) / 20)
        pairs = {
            "top_logprobs": (result.top_logprobs[layer], reference["top_logprobs"], 2e-4),
            "entropy": (result.entropy[layer], reference["entropy"], 2e-4),
            "kl_to_final": (result.kl_to_final[layer], reference["kl_to_final"], 2e-4),
            "target_logits": (result.target_logits[layer], logits[:, [47, 51]], 1e-3),
        }
        for name, (ours, theirs, close) in pairs.items():
            if not np.allclose(ours, theirs, atol=close * scale, rtol=1e-4, equal_nan=True):
                return f"{name} of layer {layer} differ by {np.nanmax(np.abs(ours - theirs)):.2g}"
        at_ids = np.take_along_axis(reference["logprobs"], result.top_ids[layer].astype(int), -1)
        if not np.allclose(at_ids, reference["top_logprobs"], atol=2e-4 * scale, equal_nan=True):
            return f"top ids of layer {layer} differ"
    return ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text[:297] + "…") if len(text) > 300 else text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor what libraries print or log."""
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Small products are several times as fast on one thread, where other processes are at work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes more of the processor's time (where the system counts it)."""
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# -- the page ----------------------------------------------------------

COMMAND = "python benchmarks/families.py --write"
HEAD = """# Architectures

Open this to see, before a model is loaded, whether its family is read, where its modules are, and how finely its
logits can be split: `grep '^| llama ' references/architectures.md`, with the config's `model_type`.

Generated by `{command}` with transformers {version}: do not edit.

Every type of `AutoModelForCausalLM`, `AutoModelForMultimodalLM` (with all of `AutoModelForImageTextToText`) and
`AutoModelForSeq2SeqLM` was built with a shrunken config and random weights and read by `logit_lens` on token ids alone,
and each layer compared with the early-exit oracle: the model itself, with all later blocks switched off.

- **certified**: equal at every layer.
- **refused**: `logit_lens` raises a `LensError`; its words follow.
- **wrong**, **crashed**: a mistake of this library.
- **no oracle**: the oracle does not fit this model; what the library said follows, with why.
- **not built**: no small model of this type could be made on the test machine.

The tail is what stands between the last block and the logits, written where it is more than final norm → unembedding.

**adds** are the components that a block writes into the stream, where its output is the sum of its input and those;
**parts** is the finest `unit` of `attribution` whose parts were seen to sum to the model's own logits (layer,
component, head, token: each includes those before it). Norms that the stream passes through, in a block or after the
last, are held at their size. Empty: the blocks are no sums, or an activation in the model's head stands between the
stream and the logits.
"""
TABLE = """
## {title}

{summary}

| family | class | blocks | final norm | unembedding | tail | adds | parts | verdict |
|---|---|---|---|---|---|---|---|---|
"""


def summary(rows: list[Row]) -> str:
    """One line: how many types, and how many of each verdict."""
    counts = collections.Counter(row.verdict for row in rows)
    order = ("certified", "refused", "wrong", "crashed", "no oracle", "not built")
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in order)
    finest = [UNITS.index(row.parts) for row in rows if row.parts]
    parts = ", ".join(
        f"{sum(i >= place for i in finest)} by {unit}" for place, unit in enumerate(UNITS)
    )
    return f"{len(rows)} types: {verdicts}. Attribution: {parts}."


def page(rows: list[Row]) -> str:
    """The whole of references/architectures.md."""
    text = HEAD.format(command=COMMAND, version=transformers.__version__)
    for title, mapping in TABLES.items():
        listed = [row for row in rows if mapping.get(row.family) == row.cls]
        text += TABLE.format(title=title, summary=summary(listed))
        text += "".join(row.line() + "\n" for row in sorted(listed, key=lambda row: row.family))
    return text


def main() -> int:
    """Walk, print, write what was asked for; 1 where something is wrong or crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="model types to walk, instead of all"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the verdicts to this file")
    parser.add_argument("--write", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    parser.add_argument("--times", action="store_true", help="print each row as it comes")
    arguments = parser.parse_args()
    if arguments.write and arguments.only:
        parser.error("--write needs the whole walk, without --only")
    rows = []
    for family, cls in every_class():
        if arguments.only and family not in arguments.only:
            continue
        rows.append(examine(family, cls))
        if arguments.times or arguments.only:
            print(f"{rows[-1].seconds:6.2f} s  {rows[-1].line()}", flush=True)
    print(summary(rows))
    for row in rows:
        if row.verdict in ("wrong", "crashed", "not built", "no oracle", "refused"):
            fits = " [the oracle fits]" if row.verdict == "refused" and not row.oracle else ""
            print(f"  {row.verdict:<9} {row.family} ({row.cls}): {row.reason}{fits}")
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if arguments.write:
        import image_families  # it imports this file

        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows) + image_families.section(image_families.walk()))
    return int(any(row.verdict in ("wrong", "crashed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
