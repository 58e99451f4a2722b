"""Small random decoders and a small tokenizer, built in memory from transformers configs.

Every builder is deterministic, runs in a fraction of a second and downloads nothing. The weights
are moved away from their initial values by :func:`unsettle`, so that a lens that forgets a norm's
bias, a soft cap or a logit scale gives visibly wrong log-probabilities.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers as hf
from nnsight.intervention.envoy import Envoy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

import lens_recipes

PAD, BOS, EOS, IMAGE, IMAGE_START, IMAGE_END = range(6)
FIRST_TEXT_ID = 6
VOCAB = 101
TOKENIZER_VOCAB = 300
STRING_VOCAB = 320
POSITIONS = 64

Model = hf.PreTrainedModel
Builder = Callable[..., Model]
FAMILIES: dict[str, Builder] = {}
REFUSED: dict[str, Builder] = {}


@functools.cache
def shared(family: str) -> Envoy:
    """A loaded model of a family, built once in each process: for tests that leave it as it is."""
    return lens_recipes.load(FAMILIES[family]())


def believed(result: Any) -> Any:
    """A lens result of which it is not known what can be read: nothing of it is grey or marked.

    Random models say little that is better than a uniform guess; `test_trust.py` is about that.
    """
    unknown = torch.full((len(result.tokens),), math.nan).numpy()
    return dataclasses.replace(result, model_entropy=unknown)


# -- moving the weights off their initial values -----------------------


def _away_from_zero(
    like: torch.Tensor, low: float, high: float, generator: torch.Generator
) -> torch.Tensor:
    """Random values of either sign with an absolute value between low and high, shaped as `like`."""
    size = low + (high - low) * torch.rand(like.shape, generator=generator)
    sign = torch.randint(0, 2, like.shape, generator=generator) * 2 - 1
    return (size * sign).to(like.dtype)


def _gaussian(like: torch.Tensor, std: float, generator: torch.Generator) -> torch.Tensor:
    """Centred normal values shaped as `like`."""
    return (torch.randn(like.shape, generator=generator) * std).to(like.dtype)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, going by its class name."""
    return type(module).__name__.lower().endswith(("norm", "norm1p", "normgated"))


def _fan_in(module: nn.Module, weight: torch.Tensor) -> int:
    """Number of inputs that a weight sums over."""
    if type(module).__name__ == "Conv1D":
        return weight.shape[0]
    if isinstance(module, nn.Linear) or weight.ndim == 2:
        return weight.shape[1]
    if isinstance(module, nn.modules.conv._ConvNd):
        return math.prod(weight.shape[1:])
    return weight.shape[-1]


def _is_matrix(module: nn.Module) -> bool:
    """Whether a module's weights are plain linear maps: linear layers, convolutions, experts, routers."""
    name = type(module).__name__
    plain = isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or name == "Conv1D"
    return plain or name.endswith(("Experts", "Router", "Gate"))


@torch.no_grad()
def unsettle(model: nn.Module, seed: int, logit_std: float = 4.0, gain: float = 1.2) -> None:
    """Move every norm scale, bias and matrix off its initial value, in place.

    Norm scales are moved by *adding* a random amount, which is right both for scales centred on one
    and for scales centred on zero (those applied as 1 + w). Matrices are drawn so that they
    multiply the size of their input by about `gain`; the embeddings and the output head so that the
    head, on a normalised input, gives logits with a standard deviation of about `logit_std`.
    """
    generator = torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    done: set[int] = set()
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if id(weight) in done:
                continue
            done.add(id(weight))
            if is_norm(module) or name.endswith("bias"):
                weight.add_(_away_from_zero(weight, 0.1, 0.5, generator))
            elif isinstance(module, nn.Embedding) or module is head:
                weight.copy_(_gaussian(weight, logit_std / math.sqrt(weight.shape[-1]), generator))
            elif _is_matrix(module) and weight.ndim >= 2:
                weight.copy_(
                    _gaussian(weight, gain / math.sqrt(_fan_in(module, weight)), generator)
                )


def _build(
    config: hf.PreTrainedConfig, cls: Builder | None = None, seed: int = 0, logit_std: float = 4.0
) -> Model:
    """A causal language model, or one of a class, with settled randomness, unsettled weights and in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (cls or hf.AutoModelForCausalLM.from_config)(config).float().eval()
    unsettle(model, seed + 1, logit_std=logit_std)
    return model.requires_grad_(False)


def random_ids(
    batch: int = 2, length: int = 9, seed: int = 0, vocab_size: int = VOCAB
) -> torch.Tensor:
    """Random input ids of shape [batch, length] without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST_TEXT_ID, vocab_size, (batch, length), generator=generator)


# -- shared settings ---------------------------------------------------


def _ids(**more: object) -> dict:
    """The small vocabulary with its special tokens, and whatever else is given."""
    return {
        "vocab_size": VOCAB,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **more,
    }


def _common(**more: object) -> dict:
    """Settings in the names that most recent families share, with grouped-query attention."""
    settings = _ids(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
    )
    return {**settings, **more}


def _family(builder: Builder) -> Builder:
    FAMILIES[builder.__name__] = builder
    return builder


def _refused(builder: Builder) -> Builder:
    REFUSED[builder.__name__] = builder
    return builder


# -- decoders with learned positions or ALiBi --------------------------


@_family
def gpt2() -> Model:
    """GPT-2: LayerNorm with bias, tied head."""
    return _build(hf.GPT2Config(**_ids(n_embd=32, n_layer=4, n_head=4, n_positions=POSITIONS)))


@_family
def gpt_neo() -> Model:
    """GPT-Neo: alternating global and local attention, unscaled attention scores."""
    config = hf.GPTNeoConfig(
        **_ids(hidden_size=32, num_layers=4, num_heads=4, max_position_embeddings=POSITIONS),
        attention_types=[[["global", "local"], 2]],
        window_size=4,
    )
    return _build(config)


@_family
def gpt_bigcode() -> Model:
    """GPT-BigCode: multi-query attention."""
    config = hf.GPTBigCodeConfig(
        **_ids(n_embd=32, n_layer=3, n_head=4, n_positions=POSITIONS), multi_query=True
    )
    return _build(config)


@_family
def openai_gpt() -> Model:
    """GPT-1: post-norm blocks and no final norm at all."""
    return _build(hf.OpenAIGPTConfig(**_ids(n_embd=32, n_layer=3, n_head=4, n_positions=POSITIONS)))


def _opt_config(**more: object) -> hf.OPTConfig:
    """Settings of a small OPT."""
    base = _ids(hidden_size=32, ffn_dim=64, num_hidden_layers=4, num_attention_heads=4, dropout=0.0)
    base.update(max_position_embeddings=POSITIONS, word_embed_proj_dim=32)
    return hf.OPTConfig(**{**base, **more})


@_family
def opt() -> Model:
    """OPT as most sizes are: pre-norm with a final norm."""
    return _build(_opt_config())


@_family
def opt_project() -> Model:
    """OPT with narrower embeddings: project_in and project_out, the latter after the final norm."""
    return _build(_opt_config(word_embed_proj_dim=24))


@_family
def opt_350m() -> Model:
    """OPT-350m's layout: post-norm blocks, no final norm, project_out only."""
    return _build(_opt_config(word_embed_proj_dim=24, do_layer_norm_before=False))


@_family
def xglm() -> Model:
    """XGLM: sinusoidal positions and scaled embeddings."""
    config = hf.XGLMConfig(
        **_ids(d_model=32, ffn_dim=64, num_layers=3, attention_heads=4),
        max_position_embeddings=POSITIONS,
    )
    return _build(config)


@_family
def biogpt() -> Model:
    """BioGPT: learned positions, scaled embeddings."""
    config = _common(num_hidden_layers=3)
    config.pop("num_key_value_heads")
    return _build(hf.BioGptConfig(**config))


@_family
def bloom() -> Model:
    """BLOOM: ALiBi and a norm on the embeddings."""
    return _build(hf.BloomConfig(**_ids(hidden_size=32, n_layer=4, n_head=4)))


@_family
def mpt() -> Model:
    """MPT: ALiBi and no biases."""
    config = hf.MptConfig(
        **_ids(d_model=32, n_layers=4, n_heads=4, max_seq_len=POSITIONS, expansion_ratio=2)
    )
    return _build(config)


# -- decoders with rotary positions ------------------------------------


@_family
def gpt_neox() -> Model:
    """GPT-NeoX: attention and MLP in parallel, untied head."""
    config = _common(use_parallel_residual=True)
    config.pop("num_key_value_heads")
    return _build(hf.GPTNeoXConfig(**config))


@_family
def gptj() -> Model:
    """GPT-J: one norm per block, attention and MLP in parallel, a bias in the head."""
    config = hf.GPTJConfig(
        **_ids(n_embd=32, n_layer=4, n_head=4, n_positions=POSITIONS, rotary_dim=4)
    )
    return _build(config)


@_family
def codegen() -> Model:
    """CodeGen: GPT-J's layout with its own fused attention."""
    config = hf.CodeGenConfig(
        **_ids(n_embd=32, n_layer=3, n_head=4, n_positions=POSITIONS, rotary_dim=4)
    )
    return _build(config)


@_family
def falcon() -> Model:
    """Falcon: parallel attention and multi-query heads."""
    config = hf.FalconConfig(
        **_ids(hidden_size=32, num_hidden_layers=4, num_attention_heads=4),
        max_position_embeddings=POSITIONS,
    )
    return _build(config)


@_family
def llama(vocab_size: int | None = None, num_hidden_layers: int = 4, seed: int = 0) -> Model:
    """Llama; `vocab_size=STRING_VOCAB` fits :func:`tiny_tokenizer`."""
    config = hf.LlamaConfig(
        **_common(vocab_size=vocab_size or VOCAB, num_hidden_layers=num_hidden_layers)
    )
    return _build(config, seed=seed)


@_family
def mistral() -> Model:
    """Mistral: sliding-window attention."""
    return _build(hf.MistralConfig(**_common(sliding_window=6)))


@_family
def qwen2() -> Model:
    """Qwen2: biases on query, key and value."""
    return _build(hf.Qwen2Config(**_common()))


@_family
def qwen3() -> Model:
    """Qwen3: norms on query and key, tied head as the small checkpoints have it."""
    return _build(hf.Qwen3Config(**_common(head_dim=8, tie_word_embeddings=True)))


@_family
def gemma() -> Model:
    """Gemma: norms scale by 1 + w, embeddings scaled."""
    return _build(hf.GemmaConfig(**_common(head_dim=8)))


@_family
def gemma2() -> Model:
    """Gemma 2: soft-capped logits and norms on both sides of each sublayer."""
    config = hf.Gemma2Config(
        **_common(head_dim=8, query_pre_attn_scalar=8, sliding_window=6),
        final_logit_softcapping=10.0,
        attn_logit_softcapping=5.0,
    )
    return _build(config)


def _gemma3_text_config() -> hf.Gemma3TextConfig:
    """Settings of a small Gemma 3 text decoder: sliding and full attention layers, soft-capped logits."""
    return hf.Gemma3TextConfig(
        **_common(head_dim=8, query_pre_attn_scalar=8, sliding_window=6),
        layer_types=[
            "sliding_attention",
            "sliding_attention",
            "sliding_attention",
            "full_attention",
        ],
        final_logit_softcapping=10.0,
    )


@_family
def gemma3_text() -> Model:
    """Gemma 3's text decoder on its own."""
    return _build(_gemma3_text_config())


@_family
def phi() -> Model:
    """Phi: attention and MLP in parallel on one norm, a bias in the head."""
    return _build(hf.PhiConfig(**_common(num_key_value_heads=4)))


@_family
def phi3() -> Model:
    """Phi-3: fused projections."""
    return _build(hf.Phi3Config(**_common(original_max_position_embeddings=POSITIONS)))


@_family
def olmo() -> Model:
    """OLMo: norms without parameters."""
    return _build(hf.OlmoConfig(**_common(num_hidden_layers=3)))


@_family
def olmo2() -> Model:
    """OLMo 2: norms only on the output of each sublayer."""
    return _build(hf.Olmo2Config(**_common()))


@_family
def cohere() -> Model:
    """Cohere: parallel sublayers, scaled logits, tied head."""
    return _build(hf.CohereConfig(**_common(logit_scale=0.5)), logit_std=7.0)


@_family
def granite() -> Model:
    """Granite: multipliers on embeddings, residuals, attention scores and logits, none of them one."""
    config = hf.GraniteConfig(
        **_common(),
        embedding_multiplier=1.5,
        residual_multiplier=0.7,
        attention_multiplier=0.3,
        logits_scaling=2.0,
    )
    return _build(config, logit_std=7.0)


@_family
def minicpm3() -> Model:
    """MiniCPM3: latent attention, the hidden state divided before the head."""
    config = hf.MiniCPM3Config(
        **_common(num_key_value_heads=4, tie_word_embeddings=True),
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        scale_emb=2,
        scale_depth=1.4,
        dim_model_base=16,
    )
    return _build(config, logit_std=7.0)


@_family
def nemotron() -> Model:
    """Nemotron: LayerNorm that scales by 1 + w and has a bias."""
    return _build(hf.NemotronConfig(**_common(num_hidden_layers=3)))


@_family
def starcoder2() -> Model:
    """StarCoder2: LayerNorm and biases with rotary positions, tied head."""
    return _build(hf.Starcoder2Config(**_common(sliding_window=6)))


@_family
def stablelm() -> Model:
    """StableLM: LayerNorm with bias, norms per attention head."""
    return _build(hf.StableLmConfig(**_common(use_qkv_bias=True, qk_layernorm=True)))


@_family
def doge() -> Model:
    """Doge: the stream is multiplied by a vector of weights before each addition."""
    config = hf.DogeConfig(**_common(keep_window_size=16))
    model = _build(config)
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if name.endswith("_residual"):
            weight.copy_(_away_from_zero(weight, 0.5, 1.5, generator))
    return model


@_family
def minimax() -> Model:
    """MiniMax: the stream itself is the normed one, scaled before each addition; linear attention in between."""
    config = hf.MiniMaxConfig(
        **_common(head_dim=8, num_local_experts=4, num_experts_per_tok=2, block_size=8),
        layer_types=["linear_attention", "full_attention"] * 2,
        linear_attn_alpha_factor=1.5,
        full_attn_alpha_factor=1.5,
        mlp_alpha_factor=1.25,
        mlp_beta_factor=0.75,
    )
    return _build(config)


@_family
def mixtral() -> Model:
    """Mixtral: a mixture of experts."""
    return _build(hf.MixtralConfig(**_common(num_local_experts=4, num_experts_per_tok=2)))


@_family
def gpt_oss() -> Model:
    """gpt-oss: attention sinks and a mixture of experts with biases."""
    config = hf.GptOssConfig(
        **_common(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6),
    )
    return _build(config)


@_family
def nanochat() -> Model:
    """NanoChat: norms without parameters and soft-capped logits."""
    return _build(hf.NanoChatConfig(**_common(final_logit_softcapping=8.0)))


# -- recurrent and state-space decoders --------------------------------


@_family
def mamba() -> Model:
    """Mamba: a state-space mixer per block."""
    config = hf.MambaConfig(
        **_ids(hidden_size=32, state_size=8, num_hidden_layers=4, time_step_rank=4)
    )
    return _build(config)


@_family
def mamba2() -> Model:
    """Mamba 2: heads and gated norms in the mixer."""
    config = hf.Mamba2Config(
        **_ids(hidden_size=32, state_size=8, num_hidden_layers=3, n_groups=2),
        num_heads=8,
        head_dim=8,
        chunk_size=8,
    )
    return _build(config)


@_family
def falcon_h1() -> Model:
    """Falcon-H1: attention and Mamba side by side, a multiplier on the logits."""
    config = hf.FalconH1Config(
        **_common(num_hidden_layers=3),
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=8,
        lm_head_multiplier=0.5,
        embedding_multiplier=1.5,
    )
    return _build(config, logit_std=7.0)


@_family
def recurrent_gemma() -> Model:
    """RecurrentGemma: recurrent and attention blocks, soft-capped logits."""
    config = hf.RecurrentGemmaConfig(
        **_ids(hidden_size=32, intermediate_size=64, num_hidden_layers=4),
        num_attention_heads=4,
        num_key_value_heads=1,
        lru_width=32,
        attention_window_size=6,
        logits_soft_cap=10.0,
        w_init_variance_scale=1.0,
    )
    return _build(config)


def _rwkv_config(rescale_every: int) -> hf.RwkvConfig:
    """Settings of a small RWKV."""
    return hf.RwkvConfig(
        **_ids(hidden_size=32, num_hidden_layers=4, context_length=POSITIONS),
        rescale_every=rescale_every,
    )


@_family
def rwkv() -> Model:
    """RWKV: a norm inside the first block only, and blocks that return their state too."""
    return _build(_rwkv_config(rescale_every=6))


@_family
def rwkv_halved() -> Model:
    """RWKV deep enough for its rescaling: outside the blocks, the stream is halved after every second one.

    The last block's output is halved too before the final norm, which tells only through the norm's
    epsilon. The first forward pass rescales weights in place to match.
    """
    return _build(_rwkv_config(rescale_every=2))


# -- heads of the BERT kind, and decoders inside multimodal checkpoints ---


def _bert_config(**more: object) -> hf.BertConfig:
    """Settings of a small BERT."""
    base = _common(num_hidden_layers=3)
    base.pop("num_key_value_heads")
    return hf.BertConfig(**{**base, **more})


@_family
def bert_lm() -> Model:
    """BERT as a decoder: post-norm blocks, a head with its own dense layer, norm and bias."""
    return _build(_bert_config(is_decoder=True))


@_family
def modernbert_decoder() -> Model:
    """ModernBERT as a decoder: a final norm and then a head with its own dense layer and norm."""
    config = _common(num_hidden_layers=3, local_attention=6, cls_token_id=BOS, sep_token_id=EOS)
    config.pop("num_key_value_heads")
    return _build(hf.ModernBertDecoderConfig(**config))


@_family
def llava() -> Model:
    """LLaVA: a Llama decoder beside a CLIP vision tower with a different number of layers."""
    vision = hf.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_common()),
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    return _build(config, hf.LlavaForConditionalGeneration)


@_family
def gemma3_vlm() -> Model:
    """Gemma 3 with its vision tower, which has as many layers as the text decoder.

    This class ignores the text config's soft cap on the logits, unlike Gemma3ForCausalLM.
    """
    vision = hf.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = hf.Gemma3Config(
        text_config=_gemma3_text_config(),
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=IMAGE_START,
        eoi_token_index=IMAGE_END,
        image_token_index=IMAGE,
    )
    return _build(config, hf.Gemma3ForConditionalGeneration)


@_family
def qwen2_vl() -> Model:
    """Qwen2-VL: a decoder with positions in three parts."""
    text = _common(
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    )
    vision = {
        "depth": 2,
        "embed_dim": 16,
        "hidden_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "mlp_ratio": 2,
    }
    config = hf.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=IMAGE,
        vision_start_token_id=IMAGE_START,
        vision_end_token_id=IMAGE_END,
    )
    return _build(config, hf.Qwen2VLForConditionalGeneration)


@_family
def mllama() -> Model:
    """Llama 3.2 Vision: block 1 reads an image alone, and text passes over it."""
    text = _common(
        num_hidden_layers=5,
        cross_attention_layers=[1],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 2,
        "attention_heads": 4,
        "intermediate_size": 64,
        "vision_output_dim": 96,
        "image_size": 8,
        "patch_size": 4,
        "intermediate_layers_indices": [0],
    }
    config = hf.MllamaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    return _build(config, hf.MllamaForConditionalGeneration)


@_family
def git() -> Model:
    """GIT: post-norm blocks, and an unembedding whose name nnsight uses for something else: `output`."""
    config = hf.GitConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "intermediate_size": 32, "image_size": 8, "patch_size": 4},
        **_ids(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64),
        max_position_embeddings=POSITIONS,
    )  # fmt: skip
    return _build(config)


# -- models for which a plain logit lens must be refused ---------------


@_refused
def t5() -> Model:
    """T5: an encoder and a decoder."""
    config = hf.T5Config(
        vocab_size=VOCAB,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=3,
        num_heads=4,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    return _build(config, hf.T5ForConditionalGeneration)


@_refused
def bart() -> Model:
    """BART: an encoder and a decoder, and a bias on the logits kept as a buffer."""
    config = hf.BartConfig(
        **_ids(d_model=32, encoder_layers=3, decoder_layers=3, encoder_ffn_dim=64),
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_position_embeddings=POSITIONS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=EOS,
    )
    return _build(config, hf.BartForConditionalGeneration)


@_refused
def bert_mlm() -> Model:
    """BERT as a masked language model."""
    return _build(_bert_config(), hf.BertForMaskedLM)


@_refused
def bert_lm_not_causal() -> Model:
    """BERT's language-model class without is_decoder, so attention looks both ways."""
    return _build(_bert_config(is_decoder=False))


@_refused
def xlnet() -> Model:
    """XLNet: attention looks both ways, and the hidden state inside is [position, batch, dim]."""
    return _build(hf.XLNetConfig(**_ids(d_model=32, n_layer=3, n_head=4, d_inner=64)))


@_refused
def llama_headless() -> Model:
    """A base model: no output head."""
    return _build(hf.LlamaConfig(**_common()), hf.LlamaModel)


@_refused
def llama_classifier() -> Model:
    """A decoder with a classifier in place of the output head."""
    return _build(hf.LlamaConfig(**_common(num_labels=3)), hf.LlamaForSequenceClassification)


@_refused
def gemma3n() -> Model:
    """Gemma 3n's text decoder: several residual streams, merged only after the last block."""
    config = hf.Gemma3nTextConfig(
        **_common(head_dim=8, sliding_window=6, vocab_size_per_layer_input=VOCAB),
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        altup_num_inputs=3,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return _build(config)


@_refused
def deepseek_v4() -> Model:
    """DeepSeek V4: hyper-connections, several residual streams mixed by each block."""
    config = hf.DeepseekV4Config(
        **_ids(hidden_size=32, moe_intermediate_size=32, num_hidden_layers=3),
        num_attention_heads=4,
        head_dim=16,
        qk_rope_head_dim=8,
        q_lora_rank=16,
        o_groups=2,
        o_lora_rank=16,
        n_routed_experts=4,
        num_experts_per_tok=2,
        index_n_heads=2,
        index_head_dim=16,
        index_topk=4,
        hc_mult=2,
        sliding_window=8,
        max_position_embeddings=POSITIONS,
        mlp_layer_types=["moe"] * 3,
    )
    return _build(config)


# -- a tokenizer -------------------------------------------------------

_TEXT = (
    "The quick brown fox jumps over the lazy dog.",
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "One two three four five six seven eight nine ten.",
    "A model reads the prompt and then writes the answer.",
    "Layers turn the first guess into the last one, a little at a time.",
)

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def tiny_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with at most TOKENIZER_VOCAB entries, a chat template and left padding.

    Its special tokens have the ids PAD, BOS and EOS that the models here use. It adds none by
    itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_VOCAB,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=POSITIONS,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def for_text(family: str, vocab_size: int = STRING_VOCAB) -> Model:
    """A model of any family with as many tokens as :func:`tiny_tokenizer` has, and a few more."""
    with mock.patch.object(sys.modules[__name__], "VOCAB", vocab_size):
        return {**FAMILIES, **REFUSED}[family]()


def save(model: Model, folder: Path) -> Path:
    """Write a model and :func:`tiny_tokenizer` as a checkpoint folder."""
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder
