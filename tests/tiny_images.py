"""Small random image-text models with real processors, from configs alone. FAMILIES: name → () → (model, processor)."""

from __future__ import annotations

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

P = 14  # pixels of a patch
TEXTS = [
    "The capital of France is Paris. A dog sits on the lawn, and the cat looks at it. USER: ASSISTANT: describe"
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE_SLOT{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def template(slot: str) -> str:
    return TEMPLATE.replace("IMAGE_SLOT", slot)


def tokenizer(*image_tokens: str, **named: str) -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE of 280 entries, the special tokens before them; `named` become attributes (image_token=…)."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<pad>", "<s>", "</s>", *image_tokens, *named.values()]))
    trainer = trainers.BpeTrainer(
        vocab_size=280 + len(special),
        special_tokens=special,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    raw.train_from_iterator(TEXTS, trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        extra_special_tokens=named or None,
    )


def text(tok, **more) -> dict:
    """Settings of a decoder of 3 layers and width 64."""
    return {
        "vocab_size": len(tok) + 3,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": 16,
        **more,
    }


def vision(size: int, **more) -> dict:
    """Settings of a vision tower of 2 layers and width 32, on images of `size` pixels."""
    return {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": P,
        **more,
    }


def video(name: str):
    """A video processor, or None where torchvision is missing: every one of them needs it."""
    return getattr(hf, name)() if hf.utils.is_torchvision_available() else None


def still(cls):
    """A processor class that goes without its video processor where torchvision is missing: images need pillow alone."""
    if hf.utils.is_torchvision_available():
        return cls

    class Still(cls):
        @classmethod
        def get_attributes(kind):
            return ["image_processor", "tokenizer", "video_processor"]

        def check_argument_for_proper_class(self, name, argument):
            return None

    return Still


def made(cls, config):
    torch.manual_seed(0)
    model = cls(config).float().eval().requires_grad_(False)
    for _name, weight in model.named_parameters():
        if weight.ndim >= 2:
            weight.normal_(0, weight[0].numel() ** -0.5)
    return model


def ids(tok, **names):
    return {key: tok.convert_tokens_to_ids(token) for key, token in names.items()}


def llava():
    tok = tokenizer(image_token="<image>")
    image = hf.CLIPImageProcessor(
        size={"shortest_edge": 4 * P}, crop_size={"height": 4 * P, "width": 4 * P}
    )
    proc = hf.LlavaProcessor(
        image,
        tok,
        patch_size=P,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision(4 * P)),
        text_config=hf.LlamaConfig(**text(tok)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return made(hf.LlavaForConditionalGeneration, config), proc


def llava_next():
    tok = tokenizer(image_token="<image>")
    pins = [[8 * P, 4 * P], [4 * P, 8 * P], [8 * P, 8 * P], [12 * P, 4 * P], [4 * P, 12 * P]]
    image = hf.LlavaNextImageProcessor(
        size={"shortest_edge": 4 * P},
        crop_size={"height": 4 * P, "width": 4 * P},
        image_grid_pinpoints=pins,
    )
    proc = hf.LlavaNextProcessor(
        image,
        tok,
        patch_size=P,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**vision(4 * P)),
        text_config=hf.LlamaConfig(**text(tok)),
        image_grid_pinpoints=pins,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return made(hf.LlavaNextForConditionalGeneration, config), proc


def llava_onevision():
    tok = tokenizer(image_token="<image>", video_token="<video>")
    pins = [[a * 4 * P, b * 4 * P] for a in (1, 2, 3) for b in (1, 2, 3)]
    image = hf.LlavaOnevisionImageProcessor(
        size={"height": 4 * P, "width": 4 * P}, image_grid_pinpoints=pins
    )
    proc = still(hf.LlavaOnevisionProcessor)(
        image,
        tok,
        video("LlavaOnevisionVideoProcessor"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**vision(4 * P), vision_use_head=False),
        text_config=hf.Qwen2Config(**text(tok)),
        image_grid_pinpoints=pins,
        vision_feature_layer=-1,
        **ids(tok, image_token_index="<image>", video_token_index="<video>"),
    )
    return made(hf.LlavaOnevisionForConditionalGeneration, config), proc


def paligemma():
    tok = tokenizer(image_token="<image>")
    image = hf.SiglipImageProcessor(size={"height": 4 * P, "width": 4 * P})
    image.image_seq_length = 16
    proc = hf.PaliGemmaProcessor(image, tok, chat_template=template("<image>"))
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(
            **vision(4 * P), vision_use_head=False, projection_dim=64
        ),
        text_config=hf.GemmaConfig(**text(tok)),
        projection_dim=64,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    return made(hf.PaliGemmaForConditionalGeneration, config), proc


def gemma3():
    tok = tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    image = hf.Gemma3ImageProcessor(
        size={"height": 8 * P, "width": 8 * P}, pan_and_scan_min_crop_size=2 * P
    )
    proc = hf.Gemma3Processor(
        image, tok, image_seq_length=16, chat_template=template("<start_of_image>")
    )
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**vision(8 * P), vision_use_head=False),
        text_config=hf.Gemma3TextConfig(**text(tok, sliding_window=64)),
        mm_tokens_per_image=16,
        **ids(
            tok,
            image_token_index="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    return made(hf.Gemma3ForConditionalGeneration, config), proc


QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
QWEN_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


def mrope(tok, section, **more):
    return text(
        tok,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": section,
            **more,
        },
    )


def qwen2_vl():
    tok = tokenizer(**QWEN)
    image = hf.Qwen2VLImageProcessor(min_pixels=4 * 28 * 28, max_pixels=100 * 28 * 28)
    proc = still(hf.Qwen2VLProcessor)(
        image, tok, video("Qwen2VLVideoProcessor"), chat_template=template(QWEN_SLOT)
    )
    tower = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 64,
        "num_heads": 2,
        "patch_size": P,
        "mlp_ratio": 2,
    }
    config = hf.Qwen2VLConfig(
        text_config=mrope(tok, [4, 2, 2]), vision_config=tower, **ids(tok, **QWEN_IDS)
    )
    return made(hf.Qwen2VLForConditionalGeneration, config), proc


def qwen2_5_vl():
    tok = tokenizer(**QWEN)
    image = hf.Qwen2VLImageProcessor(min_pixels=4 * 28 * 28, max_pixels=100 * 28 * 28)
    proc = still(hf.Qwen2_5_VLProcessor)(
        image, tok, video("Qwen2VLVideoProcessor"), chat_template=template(QWEN_SLOT)
    )
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": P,
        "out_hidden_size": 64,
        "window_size": 4 * P,
        "fullatt_block_indexes": [1],
    }
    config = hf.Qwen2_5_VLConfig(
        text_config=mrope(tok, [4, 2, 2]), vision_config=tower, **ids(tok, **QWEN_IDS)
    )
    return made(hf.Qwen2_5_VLForConditionalGeneration, config), proc


def qwen3_vl():
    tok = tokenizer(**QWEN)
    image = hf.Qwen2VLImageProcessor(
        min_pixels=4 * 32 * 32, max_pixels=100 * 32 * 32, patch_size=16
    )
    proc = still(hf.Qwen3VLProcessor)(
        image, tok, video("Qwen3VLVideoProcessor"), chat_template=template(QWEN_SLOT)
    )
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    config = hf.Qwen3VLConfig(
        text_config=mrope(tok, [4, 2, 2], mrope_interleaved=True),
        vision_config=tower,
        **ids(tok, **QWEN_IDS),
    )
    return made(hf.Qwen3VLForConditionalGeneration, config), proc


def internvl():
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    image = hf.GotOcr2ImageProcessor(
        size={"height": 8 * P, "width": 8 * P}, crop_to_patches=True, max_patches=6
    )
    proc = still(hf.InternVLProcessor)(
        image,
        tok,
        video("InternVLVideoProcessor"),
        image_seq_length=16,
        chat_template=template("<IMG_CONTEXT>\n"),
    )
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**vision([8 * P, 8 * P], patch_size=[P, P])),
        text_config=hf.Qwen2Config(**text(tok)),
        image_seq_length=16,
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return made(hf.InternVLForConditionalGeneration, config), proc


def idefics2():
    tok = tokenizer(
        "<end_of_utterance>",
        image_token="<image>",
        image_boundary_token="<fake_token_around_image>",
    )
    image = hf.Idefics2ImageProcessor(
        size={"shortest_edge": 4 * P, "longest_edge": 8 * P}, do_image_splitting=False
    )
    proc = hf.Idefics2Processor(image, tok, image_seq_len=6, chat_template=template("<image>"))
    perceiver = {
        "hidden_size": 64,
        "resampler_n_latents": 6,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 16,
        "num_key_value_heads": 2,
    }
    config = hf.Idefics2Config(
        vision_config=vision(8 * P),
        perceiver_config=perceiver,
        text_config=hf.MistralConfig(**text(tok)),
        image_token_id=tok.convert_tokens_to_ids("<image>"),
    )
    return made(hf.Idefics2ForConditionalGeneration, config), proc


def _idefics3(model_cls, config_cls, proc_cls, image_cls, *video):
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    tok = tokenizer(
        "<end_of_utterance>",
        *rows,
        image_token="<image>",
        global_image_token="<global-img>",
        fake_image_token="<fake_token_around_image>",
        end_of_utterance_token="<end_of_utterance>",
    )
    image = image_cls(size={"longest_edge": 16 * P}, max_image_size={"longest_edge": 8 * P})
    proc = (still(proc_cls) if video else proc_cls)(
        image, tok, *video, image_seq_len=16, chat_template=template("<image>")
    )
    config = config_cls(
        vision_config=vision(8 * P),
        text_config=hf.LlamaConfig(**text(tok)),
        scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return made(model_cls, config), proc


def idefics3():
    return _idefics3(
        hf.Idefics3ForConditionalGeneration,
        hf.Idefics3Config,
        hf.Idefics3Processor,
        hf.Idefics3ImageProcessor,
    )


def blip_2():
    tok = tokenizer("<image>")
    image = hf.BlipImageProcessor(size={"height": 4 * P, "width": 4 * P})
    proc = hf.Blip2Processor(image, tok, num_query_tokens=5)
    former = hf.Blip2QFormerConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=32,
    )
    words = hf.OPTConfig(
        vocab_size=len(tok) + 3,
        hidden_size=64,
        word_embed_proj_dim=64,
        ffn_dim=64,
        pad_token_id=0,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    config = hf.Blip2Config(
        vision_config=vision(4 * P),
        qformer_config=former,
        text_config=words,
        num_query_tokens=5,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    return made(hf.Blip2ForConditionalGeneration, config), proc


def mllama():
    tok = tokenizer(image_token="<|image|>")
    image = hf.MllamaImageProcessor(size={"height": 4 * P, "width": 4 * P}, max_image_tiles=4)
    proc = hf.MllamaProcessor(image, tok, chat_template=template("<|image|>"))
    words = text(
        tok,
        num_hidden_layers=4,
        cross_attention_layers=[1, 3],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "intermediate_size": 32,
        "vision_output_dim": 64,
        "image_size": 4 * P,
        "patch_size": P,
        "intermediate_layers_indices": [0],
        "max_num_tiles": 4,
        "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    }
    config = hf.MllamaConfig(
        text_config=words,
        vision_config=tower,
        image_token_index=tok.convert_tokens_to_ids("<|image|>"),
    )
    return made(hf.MllamaForConditionalGeneration, config), proc


def aya_vision():
    tiles = [f"TILE_{i}" for i in range(1, 10)]
    tok = tokenizer(
        *tiles,
        "TILE_GLOBAL",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "<image>",
    )
    image = hf.GotOcr2ImageProcessor(
        size={"height": 8 * P, "width": 8 * P}, crop_to_patches=True, max_patches=6
    )
    proc = hf.AyaVisionProcessor(
        image,
        tok,
        patch_size=P,
        img_size=8 * P,
        downsample_factor=2,
        chat_template=template("<image>"),
    )
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**vision(8 * P), vision_use_head=False),
        text_config=hf.Cohere2Config(**text(tok)),
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        alignment_intermediate_size=64,
        image_token_index=tok.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    return made(hf.AyaVisionForConditionalGeneration, config), proc


FAMILIES = {
    f.__name__: f
    for f in (
        llava,
        llava_next,
        llava_onevision,
        paligemma,
        gemma3,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        idefics2,
        idefics3,
        blip_2,
        mllama,
        aya_vision,
    )
}
# What stands for one image in a prompt before the processor has run.
SLOTS = dict.fromkeys(FAMILIES, "<image>") | {
    "gemma3": "<start_of_image>",
    "qwen2_vl": QWEN_SLOT,
    "qwen2_5_vl": QWEN_SLOT,
    "qwen3_vl": QWEN_SLOT,
    "internvl": "<IMG_CONTEXT>",
    "mllama": "<|image|>",
}
