"""Small models of every type of transformers, out of its own config classes: what `families.py` walks.

Each config keeps its meaning and loses its size: every number that says how large something is becomes small, by what
its name means. The weights are random, and nothing is left at a value that would hide a mistake.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import tiny
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

LAYERS, VOCAB, FIRST_PLAIN_ID = 4, 101, 40


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
_MROPE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
}
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
    # Hybrids whose config says by numbers which layers attend: one of the four has to.
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    # Multimodal types: what they say of their parts must fit together.
    "apertus1p5": {"image_token_offset": 20, "audio_token_offset": 52},
    "chameleon": {"vocabulary_map": {"<image>": 3, "IMGIMGA": 4}},
    "cohere_compass": {
        "text_config": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}}
    },
    "cosmos3_edge": {"text_config": _MROPE},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"] * 2, "num_experts_per_tok": 2}
    },
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
    },
    "emu3": {"vocabulary_map": {"<|extra_200|>": 3, "<image>": 4, "<|visual token 000000|>": 5}},
    "ernie4_5_vl_moe": {
        "text_config": {
            "head_dim": 16,
            "rope_parameters": _MROPE["rope_parameters"] | {"mrope_section": [3, 3, 2]},
        }
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "glm46v": {"text_config": _MROPE},
    "glm4v": {"text_config": _MROPE},
    "glm4v_moe": {
        "text_config": {
            "rope_parameters": _MROPE["rope_parameters"]
            | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.5}
        }
    },
    "glm5_next": {"text_config": {"index_topk": 4, "index_kpool": 2, "qk_rope_head_dim": 0}},
    "glm_ocr": {"text_config": _MROPE},
    "glmga": {"text_config": _MROPE},
    "granite4_vision": {
        "downsample_rate": "1/2",
        "vision_config": {"hidden_size": 64},
        "deepstack_layer_map": [[0, 0]],
        "spatial_target_layers": [1],
    },
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 8,
            "rope_parameters": _MROPE["rope_parameters"] | {"mrope_section": [1, 1, 1, 1]},
        }
    },
    "hy_v4_vl": {"text_config": _MROPE},
    "kyutai_speech_to_text": {"codec_config": {"upsample_groups": 32}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "nemo_speechlm": {"audio_config": {"diarization_config": {"chunk_right_context": 2}}},
    "paddleocr_vl": {"text_config": _MROPE},
    "qwen2_5_omni_thinker": {"text_config": _MROPE},
    "qwen2_5_vl": {"text_config": _MROPE},
    "qwen2_vl": {"text_config": _MROPE},
    "qwen3_omni_moe": {"enable_audio_output": False},
    "step3p7": {"text_config": {"sliding_window": 6}},
    "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 3200},
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


def build(family: str, class_name: str) -> PreTrainedModel:
    """A small model of this type with random weights, nothing of it left at a value that hides a mistake."""
    cls = getattr(transformers, class_name)
    config = shrunken_config(family)
    if not isinstance(config, cls.config_class):
        config = config.get_text_config(decoder=True)
    if not isinstance(config, cls.config_class):
        config = _shrink(cls.config_class, text=True, more=OVERRIDES.get(family, {}))
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
