"""Every causal-LM class of transformers, built small and read: `python benchmarks/families.py`.

Walks `MODEL_FOR_CAUSAL_LM_MAPPING_NAMES` from end to end. Each type gets a shrunken config, random weights, 2 × 8
random ids, `logit_lens()` and the early-exit oracle of the tests; then every layer is compared. `--json F` keeps the
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
import re
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
import tiny  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES  # noqa: E402

import lens_recipes as lr  # noqa: E402
from lens_recipes.arrays.attribution import UNITS  # noqa: E402
from lens_recipes.models.structure.blocks import residual_blocks  # noqa: E402

PAGE = ROOT / "references" / "architectures.md"
LAYERS, VOCAB, FIRST_PLAIN_ID = 4, 101, 40
SECONDS = 60  # for one type: one that hangs must not stop the walk


# -- configs, shrunk ---------------------------------------------------

# Attribute names (whole, as patterns, in order) and the size they get. A function is given the default.
RULES: list[tuple[str, Any]] = [
    (r"pad_token_id|bos_token_id|eos_token_id", None),  # set apart in `_token_id`
    (r"type_vocab_size|task_type_vocab_size", 2),
    (
        r".*vocab_size|.*vocab_size_base|vocab_size_per_layer_input|encoder_hash_byte_group_vocab|n_vocab",
        lambda v: v and VOCAB,
    ),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|max_(source|target)_positions",
        64,
    ),
    (r"original_max_position_embeddings|rel_extent|.*max_distance", 64),
    (
        r"num_hidden_layers|n_layers?|num_layers|decoder_layers|num_decoder_layers|num_blocks|num_layers_per_stack|encoder_layers",
        LAYERS,
    ),
    (r"num_encoder_layers|depth|num_global_layers|conf_num_hidden_layers", 2),
    (r"num_mem_blocks|num_kv_shared_layers|num_nextn_predict_layers|mtp_.*", lambda v: min(v, 1)),
    (r"first_k_dense_replace|num_dense_layers", lambda v: min(v, 1)),
    (
        r".*num_(key_value|kv|mamba_kv)_heads|kv_n_heads|num_query_groups|.*num_key_heads",
        lambda v: min(v, 2),
    ),
    (r"o_groups|n_group|num_expert_group|mamba_n_?groups|n_groups", lambda v: min(v, 2)),
    (r"topk_group", 1),
    (
        r".*(num_heads|attention_heads|n_heads?|num_value_heads)|linear_num_heads|conf_num_attention_heads",
        4,
    ),
    (r"n_mamba_heads", 2),
    (r"qk_head_dim", 16),
    (r"rotary_dim", 4),
    (r"mamba_expand|expand|expansion_ratio|n_inner", lambda v: v and 2),
    (r".*head_?dim|.*_d_head|d_head|d_kv|dim_head|attention_head_size|kv_channels|.*key_dim", 8),
    (r".*(n|moe_num|num|num_local|num_routed|n_routed)_experts", 4),
    (r".*shared_experts", lambda v: min(v, 1)),
    (r".*(experts_per_tok(en)?|moe_k|moe_top_?k)", lambda v: min(v, 2)),
    (r"zero_expert_num", 2),
    (r".*_rank|hc_lowrank", lambda v: v if isinstance(v, str) else 8),
    (r"index_topk|index_topk_blocks|centroid_intermediate_top_k", 4),
    (r"hc_mult|hc_count|altup_num_inputs", 2),
    (r".*state_size|.*d_state|d_rel", 8),
    (
        r".*chunk_(size|length)|block_size|index_block_size|.*chunk_len(gth)?",
        lambda v: v if v < 1 else 8,
    ),
    (
        r".*sliding_window(_size)?|.*window_size|local_attention|attention_window_size|keep_window_size",
        lambda v: v and 6,
    ),
    (r"image_size|crop_size", 8),
    (r"patch_size", 4),
    (
        r"moe_.*intermediate_size|.*expert.*intermediate_size|expert_ffn_hidden_size",
        lambda v: v and 16,
    ),
    (
        r".*(intermediate_size|ffn_dim|ffn_hidden_size|feed_forward_size|dff|d_ff|dim_ff|d_inner|mlp_dim)",
        lambda v: v and 64,
    ),
    (r"intermediate_size_mlp", 64),
    (r"mamba_d_ssm|lru_width", 32),
    (r"hidden_size_per_layer_input|router_hidden_size", lambda v: v and 8),
    (
        r"(hidden|embedding|emb|n_embd|embed|.*_hidden|input|.*_embed).*(size|dim)|d_model|n_embd|dim_model|out_hidden_size",
        32,
    ),
    (
        r"embedding_dim|emb_dim|embed_dim|word_embed_proj_dim|prompt_mid_dim|codebook_dim|backbone_hidden_size",
        32,
    ),
    (
        r"(vision|projector)_(input|output)_dim|.*output_dim|.*output_channels|num_filters|codebook_size",
        32,
    ),
    (
        r"adapter_(in_dim|out_dim|input_size)|attention_hidden_size|ple_embed_dim|input_feat_size",
        32,
    ),
    (r"image_seq_length|.*tokens_per_image", 4),
    (
        r".*(multiplier|logits?_scal(e|ing)|residual_scale)",
        lambda v: 1.5 if type(v) is float and v == 1 else v,
    ),
    (r"(final_logit_softcapping|logits_soft_cap|output_logit_soft_cap)", 10.0),
    (r"is_decoder", True),
    (r"use_cache", False),
    (r"ffn_round_up_to_multiple_of|.*divisible_by", 8),
]
UNSET = {
    "final_logit_softcapping": 10.0,
    "logit_scale": 0.5,
}  # what may stand in a config, and would change logits
FEWER_LAYERS = 2  # of towers beside the text: another number than LAYERS, so that nobody takes them for the decoder
TEXT_PARTS = ("text_config", "decoder", "decoder_config", "language_config", "llm_config")

# Where meanings do not say enough: settings of single types. This builds test models; the library has no such table.
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_SWA_PARTS = (
    "num_attention_heads",
    "num_key_value_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "v_head_dim",
)
_DOTS3 = {
    **{f"swa_{part}": 4 for part in _SWA_PARTS},
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "head_dim": 16,
}
_GEMMA4 = {"global_head_dim": 16}
_QSA = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8}
_QSA |= {"indexer_compress_ratio": 2, "split_ngram_parts": 4}
_SHARED = {"num_kv_shared_layers": LAYERS}
_NO_EXTRA = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
OVERRIDES: dict[str, dict[str, Any]] = {
    "blt": {
        "global_config": {"hidden_size": 64},
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note": {"text_config": _DOTS3},
    "dots3_note_text": _DOTS3,
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "gemma4_assistant": {
        "_start": {"text_config": {"model_type": "gemma4_text", **_NO_EXTRA}},
        "text_config": _GEMMA4 | _SHARED,
    },
    "gemma4_unified": {"text_config": _GEMMA4},
    "gemma4_unified_text": _GEMMA4,
    "gemma4_unified_assistant": {"text_config": _GEMMA4 | _SHARED},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "reformer": {"axial_pos_embds_dim": (8, 24), "axial_pos_shape": (8, 8)},
    "xlm": {"causal": True},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
}


def shrunken_config(family: str) -> PreTrainedConfig:
    """The default config of a type with every size made small."""
    return _shrink(CONFIG_MAPPING[family], text=True, more=OVERRIDES.get(family, {}))


def _shrink(kind: type[PreTrainedConfig], *, text: bool, more: dict[str, Any]) -> PreTrainedConfig:
    """One config class, its sub-configs included; `more` overrides, with nested dicts for sub-configs."""
    default = more.get("_default") or kind(**more.get("_start", {}))
    settings: dict[str, Any] = {}
    layers = LAYERS if text else FEWER_LAYERS
    kept = _kept_layers(default, layers)
    for field in dataclasses.fields(kind):
        name, value = field.name, vars(default).get(field.name)
        if isinstance(value, PreTrainedConfig):
            inner = {"_default": value, **(more.get(name) or {})}
            settings[name] = _shrink(type(value), text=text and name in TEXT_PARTS, more=inner)
        elif isinstance(value, list | tuple) and kept is not None:
            settings[name] = _shrunken_list(value, *kept)
        elif field.default is not None and (
            type(value) is type(field.default) or not isinstance(field.default, str)
        ):
            settings[name] = _shrunken_value(name, value, kind, layers)
            if re.fullmatch(r".*num_(key_value|kv)_heads", name) and value == _query_heads(
                name, default
            ):
                settings[name] = 4
        elif value is None and name in UNSET:
            settings[name] = UNSET[name]
    settings = {k: v for k, v in settings.items() if v is not None}
    settings |= {
        k: v
        for k, v in more.items()
        if k not in ("_default", "_start") and not isinstance(settings.get(k), PreTrainedConfig)
    }
    return kind(**settings)


def _query_heads(name: str, default: PreTrainedConfig) -> Any:
    """How many query heads go with a number of key-value heads."""
    return vars(default).get(re.sub(r"key_value|kv", "attention", name))


def _shrunken_value(name: str, value: Any, kind: type[PreTrainedConfig], layers: int) -> Any:
    """One number by what its name means; anything else as it is."""
    if re.search(r"_token_id$|_token_index$|^unk_index$|^mask_index$", name):
        return _token_id(name) if isinstance(value, int) else value
    if isinstance(value, bool) and name not in ("is_decoder", "use_cache"):
        return value
    if not isinstance(value, int | float) or "drop" in name:
        return value
    for alias in (
        name,
        kind.attribute_map.get(name, name),
        *(k for k, v in kind.attribute_map.items() if v == name),
    ):
        for pattern, small in RULES:
            if re.fullmatch(pattern, alias):
                small = layers if small is LAYERS else small
                return small(value) if callable(small) else small
    return value


def _token_id(name: str) -> int:
    """A small id of its own for each special token, below all ids that the prompts use."""
    first = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return first.get(name, 3 + sum(name.encode()) % (FIRST_PLAIN_ID - 3))


def _kept_layers(default: PreTrainedConfig, count: int) -> tuple[int, list[int]] | None:
    """How many layers the default has, and which of them stay: one of each kind first, then the earliest."""
    total = getattr(default, "num_hidden_layers", None)
    if not isinstance(total, int):
        return None
    per_layer = [v for v in vars(default).values() if isinstance(v, list | tuple) and v]
    kinds = [
        tuple(str(v[i]) if len(v) == total and not _is_index_list(v, total) else i in v for v in per_layer
              if len(v) == total or _is_index_list(v, total))
        for i in range(total)
    ]  # fmt: skip
    first_of_kind = sorted({kind: i for i, kind in reversed(list(enumerate(kinds)))}.values())
    chosen = first_of_kind[:count]
    chosen += [i for i in range(total) if i not in chosen][: count - len(chosen)]
    return total, sorted(chosen)


def _is_index_list(value: Any, total: int) -> bool:
    """Whether a list names layers by their number."""
    plain = all(type(item) is int and 0 <= item < total for item in value)
    return plain and len(set(value)) == len(value) and list(value) == sorted(value)


def _shrunken_list(value: Any, total: int, kept: list[int]) -> Any:
    if value and _is_index_list(value, total):
        return [new for new, old in enumerate(kept) if old in value]
    if len(value) == total:
        return type(value)(value[i] for i in kept)
    return value


# -- models ------------------------------------------------------------


def build(family: str) -> PreTrainedModel:
    """A small model of this type with random weights, nothing of it left at a value that hides a mistake."""
    cls = getattr(transformers, FAMILIES[family])
    config = shrunken_config(family)
    if not isinstance(config, cls.config_class):
        config = config.get_text_config(decoder=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(config).float().eval()
        tiny.unsettle(model, seed=1)
        _unsettle_constants(model)
    return model.requires_grad_(False)


@torch.no_grad()
def _unsettle_constants(model: nn.Module) -> None:
    """Move what still is one number throughout (scales of ones, biases of zeros), buffers of a checkpoint too."""
    for module in model.modules():
        saved = set(module._buffers) - module._non_persistent_buffers_set
        values = [*module._parameters.values(), *(module._buffers[name] for name in sorted(saved))]
        for value in values:
            if (
                value is not None
                and value.is_floating_point()
                and value.numel()
                and (value == value.flatten()[0]).all()
            ):
                value.add_(0.1 + 0.2 * torch.rand(value.shape))


def prompts() -> torch.Tensor:
    """Ids of shape [2, 8], none of them special."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(FIRST_PLAIN_ID, VOCAB, (2, 8), generator=generator)


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


def examine(family: str) -> Row:
    """Build one type, read it, compare it."""
    row = Row(family, FAMILIES[family])
    started = time.perf_counter()
    with _quiet(), _at_most(SECONDS), _one_thread():
        _judge(row)
    row.seconds = round(time.perf_counter() - started, 2)
    return row


def _judge(row: Row) -> None:
    try:
        module = build(row.family)
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
        if not blocks or not _is_chain(module, ids, blocks):
            raise
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
    return (text[:217] + "…") if len(text) > 220 else text


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
    """Raise TimeoutError in what takes longer (where the system has alarms)."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- the page ----------------------------------------------------------

COMMAND = "python benchmarks/families.py --write"
HEAD = """# Architectures

Open this to see, before a model is loaded, whether its family is read, where its modules are, and how finely its
logits can be split: `grep '^| llama ' references/architectures.md`, with the config's `model_type`.

Generated by `{command}` with transformers {version}: do not edit.

Every type of the causal-LM mapping was built with a shrunken config and random weights and read by `logit_lens`, and
each layer compared with the early-exit oracle: the model itself, with all later blocks switched off.

- **certified**: equal at every layer.
- **refused**: `logit_lens` raises a `LensError`; its words follow.
- **wrong**, **crashed**: a mistake of this library.
- **no oracle**: the oracle does not fit this model; what the library said follows, with why.
- **not built**: no small model of this type could be made on the test machine.

The tail is what stands between the last block and the logits, written where it is more than final norm → unembedding.

**adds** are the components that a block writes into the stream, where its output is the sum of its input and those;
**parts** is the finest `unit` of `attribution` whose parts were seen to sum to the model's own logits (layer,
component, head, token: each includes those before it). Empty: the blocks are no sums (the stream is normed after each
addition), or an activation in the model's head stands between the stream and the logits. A hybrid model has four
layers here: what only deeper layers have (attention in Jamba, Bamba, Zamba) does not show.

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
    head = HEAD.format(command=COMMAND, version=transformers.__version__, summary=summary(rows))
    return head + "".join(row.line() + "\n" for row in sorted(rows, key=lambda row: row.family))


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
    for family in sorted(arguments.only or FAMILIES):
        rows.append(examine(family))
        if arguments.times or arguments.only:
            print(f"{rows[-1].seconds:6.2f} s  {rows[-1].line()}", flush=True)
    print(summary(rows))
    for row in rows:
        if row.verdict in ("wrong", "crashed", "not built", "no oracle", "refused"):
            fits = " [the oracle fits]" if row.verdict == "refused" and not row.oracle else ""
            print(f"  {row.verdict:<9} {row.family}: {row.reason}{fits}")
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    if arguments.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(rows))
    return int(any(row.verdict in ("wrong", "crashed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
