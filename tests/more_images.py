"""More small image-text models, for what is known of their images alone. MORE: name → () → (model, processor)."""

from __future__ import annotations

import transformers as hf
from tiny_images import (
    QWEN,
    QWEN_IDS,
    QWEN_SLOT,
    _idefics3,
    ids,
    made,
    mrope,
    still,
    text,
    tokenizer,
    video,
    vision,
)
from tiny_images import P as PATCH


def vipllava():
    tok = tokenizer(image_token="<image>")
    image = hf.CLIPImageProcessor(
        size={"shortest_edge": 4 * PATCH}, crop_size={"height": 4 * PATCH, "width": 4 * PATCH}
    )
    processor = hf.LlavaProcessor(
        image,
        tok,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision(4 * PATCH)),
        text_config=hf.LlamaConfig(**text(tok)),
        vision_feature_layers=[-2, -1],
        **ids(tok, image_token_index="<image>"),
    )
    return made(hf.VipLlavaForConditionalGeneration, config), processor


def qwen3(kind, **more):
    """A model with Qwen3-VL's processor."""
    tok = tokenizer(**QWEN)
    image = hf.Qwen2VLImageProcessor(
        min_pixels=4 * 32 * 32, max_pixels=100 * 32 * 32, patch_size=16
    )
    processor = still(hf.Qwen3VLProcessor)(image, tok, video("Qwen3VLVideoProcessor"))
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 16,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
    }
    if kind.startswith("Qwen3VL"):
        tower["deepstack_visual_indexes"] = [0]
    words = mrope(tok, [4, 2, 2], mrope_interleaved=True) | more
    config = getattr(hf, f"{kind}Config")(
        text_config=words, vision_config=tower, **ids(tok, **QWEN_IDS)
    )
    return made(getattr(hf, f"{kind}ForConditionalGeneration"), config), processor


EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}


def qwen3_vl_moe():
    return qwen3("Qwen3VLMoe", **EXPERTS)


def qwen3_5():
    return qwen3("Qwen3_5")


def qwen3_5_moe():
    return qwen3("Qwen3_5Moe", **EXPERTS)


GLM = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "begin": "<|begin_of_image|>",
    "end": "<|end_of_image|>",
    "begin_video": "<|begin_of_video|>",
    "end_video": "<|end_of_video|>",
}
GLM_IDS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
GLM_SLOT = "<|begin_of_image|><|image|><|end_of_image|>"


def glm(kind, brought):
    """A model of GLM's with images."""
    tok = tokenizer(**GLM)
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 100 * 28 * 28}
    image = getattr(hf, f"{brought}ImageProcessor")(size=size, patch_size=PATCH)
    processor = still(getattr(hf, f"{brought}Processor"))(
        image, tok, video(f"{brought}VideoProcessor")
    )
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": PATCH,
        "out_hidden_size": 64,
        "image_size": 8 * PATCH,
    }
    config = getattr(hf, f"{kind}Config")(
        text_config=mrope(tok, [4, 2, 2]), vision_config=tower, **ids(tok, **GLM_IDS)
    )
    return made(getattr(hf, f"{kind}ForConditionalGeneration"), config), processor


def glm4v():
    return glm("Glm4v", "Glm4v")


def glm4v_moe():
    return glm("Glm4vMoe", "Glm4v")


def glm46v():
    return glm("Glm46V", "Glm46V")


# -- those whose processors need torchvision -----------------------------------


def smolvlm():
    return _idefics3(
        hf.SmolVLMForConditionalGeneration,
        hf.SmolVLMConfig,
        hf.SmolVLMProcessor,
        hf.SmolVLMImageProcessor,
        video("SmolVLMVideoProcessor"),
    )


PIXTRAL = {
    "image_token": "[IMG]",
    "image_break_token": "[IMG_BREAK]",
    "image_end_token": "[IMG_END]",
}


def pixtral_tower():
    """Pixtral's tower, for images of any proportions."""
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return hf.PixtralVisionConfig(**vision(16 * PATCH), head_dim=16, rope_parameters=rope)


def pixtral():
    """Pixtral 12B: a LLaVA model around Pixtral's tower."""
    tok = tokenizer(**PIXTRAL)
    image = hf.PixtralImageProcessor(
        size={"longest_edge": 16 * PATCH}, patch_size={"height": PATCH, "width": PATCH}
    )
    processor = hf.PixtralProcessor(image, tok, patch_size=PATCH)
    config = hf.LlavaConfig(
        vision_config=pixtral_tower(),
        text_config=hf.MistralConfig(**text(tok)),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **ids(tok, image_token_index="[IMG]"),
    )
    return made(hf.LlavaForConditionalGeneration, config), processor


def mistral3():
    tok = tokenizer(**PIXTRAL)
    image = hf.PixtralImageProcessor(
        size={"longest_edge": 16 * PATCH}, patch_size={"height": 2 * PATCH, "width": 2 * PATCH}
    )
    processor = hf.PixtralProcessor(image, tok, patch_size=PATCH, spatial_merge_size=2)
    config = hf.Mistral3Config(
        vision_config=pixtral_tower(),
        text_config=hf.MistralConfig(**text(tok)),
        spatial_merge_size=2,
        **ids(tok, image_token_index="[IMG]"),
    )
    return made(hf.Mistral3ForConditionalGeneration, config), processor


def llama4():
    tok = tokenizer(
        "<|image_start|>",
        "<|image_end|>",
        "<|patch|>",
        "<|tile_x_separator|>",
        "<|tile_y_separator|>",
        "<|image|>",
    )
    image = hf.Llama4ImageProcessor(size={"height": 8 * PATCH, "width": 8 * PATCH}, max_patches=4)
    processor = hf.Llama4Processor(image, tok, patch_size=PATCH, pixel_shuffle_ratio=0.5)
    experts = {"intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1}
    tower = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8 * PATCH,
        "patch_size": PATCH,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "pixel_shuffle_ratio": 0.5,
    }
    config = hf.Llama4Config(
        text_config=hf.Llama4TextConfig(**text(tok, **experts)),
        vision_config=tower,
        **ids(tok, image_token_index="<|patch|>"),
    )
    return made(hf.Llama4ForConditionalGeneration, config), processor


# Name → how it is made, what stands for an image in a prompt, and the package that it needs.
MORE = {
    "vipllava": (vipllava, "<image>", None),
    "qwen3_vl_moe": (qwen3_vl_moe, QWEN_SLOT, None),
    "qwen3_5": (qwen3_5, QWEN_SLOT, None),
    "qwen3_5_moe": (qwen3_5_moe, QWEN_SLOT, None),
    "glm4v": (glm4v, GLM_SLOT, None),
    "glm4v_moe": (glm4v_moe, GLM_SLOT, None),
    "glm46v": (glm46v, GLM_SLOT, None),
    "smolvlm": (smolvlm, "<image>", "num2words"),
    "pixtral": (pixtral, "[IMG]", "torchvision"),
    "mistral3": (mistral3, "[IMG]", "torchvision"),
    "llama4": (llama4, "<|image|>", "torchvision"),
}
