"""What is said of a model that is but a config: what a run of it sends, computes and needs, from its shapes."""

from __future__ import annotations

from functools import partial

import pytest
import tiny
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import lens_recipes as lr
from lens_recipes.recipes.lenses.estimators.jacobian import PromptJacobians
from lens_recipes.run.registry import prepare_run
from lens_recipes.run.remote.paper import model_on_paper
from lens_recipes.run.remote.work import model_size, pulled_work, weights_of_token
from lens_recipes.run.request import kernels as asked_kernels
from lens_recipes.run.request.kernels import expected_kernels
from lens_recipes.trace.kernels import ACCELERATOR, PROCESSOR
from lens_recipes.trace.transport import Affine

pytest_plugins = ["loopback"]

IDS = [[7, 8, 9, 10, 11, 12], [9, 8, 7]]
PROMPTS = torch.randint(7, 90, (300, 6), generator=torch.Generator().manual_seed(0)).tolist()
ITEMS = [
    {"prompt": prompt, "target": 20 + n % 9, "against": 40} for n, prompt in enumerate(PROMPTS)
]
RECIPES = {
    "lens": partial(lr.logit_lens, prompts=IDS),
    "last": partial(lr.logit_lens, prompts=IDS, positions=-1, track=None),
    "generation": partial(lr.generate_lens, prompts=IDS[0], max_new_tokens=9, do_sample=False),
    "vectors": partial(lr.decode_vectors, vectors=torch.ones(3, 32)),
    "attribution": partial(lr.attribution, prompts=IDS, targets=9),
    "patch map": partial(
        lr.patch_map, clean=[IDS[0]], corrupt=[IDS[0][::-1]], target=20, against=30, keep_all=True
    ),
}


def llama_70b() -> torch.nn.Module:
    """As its config describes it, with fewer layers (its blocks are alike) and no numbers."""
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=5, num_attention_heads=64,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


# -- what is said ------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_says_what_is_sent(client, server, name):
    recipe = RECIPES[name]
    said = lr.estimate(recipe.func, client._module.config, **recipe.keywords)
    assert not server.seen
    used = recipe(client).provenance["jobs"]
    assert said.jobs == used["jobs"]
    assert said.bytes_up == pytest.approx(used["bytes_up"], rel=0.02)
    named = lr.estimate(recipe.func, client, **recipe.keywords)
    for same in ("recipe", "jobs", "batches", "tokens", "bytes_back", "server_bytes", "work"):
        assert getattr(said, same) == getattr(named, same), same
    assert said.model in ("LlamaForCausalLM", client._module.config.name_or_path)


def test_a_module_on_meta_is_as_good_as_its_config(client):
    config = client._module.config
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    one, other, third = (
        lr.estimate(lr.logit_lens, model, IDS) for model in (config, module, lr.load(module))
    )
    assert one.bytes_up == pytest.approx(third.bytes_up, rel=1e-3)  # what nnsight counts is in it
    assert one.server_bytes == other.server_bytes == third.server_bytes
    assert one.work == other.work == third.work


@pytest.mark.parametrize("kind", ["linear", "jacobian"])
def test_a_lens_on_paper_weighs_what_one_of_numbers_does(client, server, kind):
    """Sent with each job, and there in memory beside the weights."""
    n_layers = client._module.config.num_hidden_layers
    generator = torch.Generator().manual_seed(0)
    has_bias = kind == "linear"
    transports = {}
    for layer in range(-1 if has_bias else 0, n_layers - 1):
        bias = torch.randn(32, generator=generator) if has_bias else None
        transports[layer] = Affine(torch.randn(32, 32, generator=generator), bias)
    lens = lr.Lens(kind, transports)
    said = lr.estimate(lr.logit_lens, client._module.config, IDS, lens=kind)
    there = lr.estimate(lr.logit_lens, client, IDS, lens=lens)
    used = lr.logit_lens(client, IDS, lens=lens, strict=False).provenance["jobs"]
    assert said.bytes_up == pytest.approx(used["bytes_up"], rel=0.03)
    plain = lr.estimate(lr.logit_lens, client._module.config, IDS)
    n_bytes = 4 * 32 * 32 * (n_layers - 1) + has_bias * 4 * 32 * (n_layers - 1)
    assert said.server_bytes == there.server_bytes == plain.server_bytes + 3 * n_bytes
    assert said.flops == there.flops
    mapped = 2 * 32 * 32 * (n_layers - 1) * 9  # a product for each token and layer but the last
    assert said.flops - plain.flops == mapped


def test_a_survey_is_the_sum_of_its_blocks(client, server):
    said = lr.estimate(lr.survey, client._module.config, ITEMS)
    assert said.recipe == "survey"
    lr.survey(client, ITEMS, bootstrap=100)
    sent = sum(len(parcel.blob) for parcel in server.parcels.values())
    came = sum(len(parcel.result) for parcel in server.parcels.values())
    assert said.jobs == server.posts == 2
    assert said.bytes_up == pytest.approx(sent, rel=0.02)
    assert said.bytes_back == pytest.approx(came, rel=0.3)  # ids of a tiny vocabulary pack well
    assert said.tokens == 1800


def test_a_survey_of_a_model_with_weights_is_estimated_too(llama):
    assert lr.estimate(lr.survey, llama, ITEMS[:5]).jobs == 1
    with pytest.raises(TypeError, match=r"received models=.*estimate one model at a time"):
        lr.estimate(lr.survey, llama, ITEMS[:5], models=[llama])
    with pytest.raises(TypeError, match="survey has no argument no_such, nor_this"):
        lr.estimate(lr.survey, llama, ITEMS[:5], no_such=1, nor_this=2)
    with pytest.raises(lr.LensError, match="nothing is left"):
        lr.estimate(lr.survey, llama, [{"prompt": [7], "target": 10**6}])


def test_prompts_of_a_config_are_token_ids(client):
    with pytest.raises((ValueError, lr.LensError), match="token"):
        lr.estimate(lr.logit_lens, client._module.config, "a text")


def test_a_model_on_paper_never_runs(client):
    config = client._module.config
    lr.estimate(lr.logit_lens, config, IDS)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    with pytest.raises(lr.LensError, match="no weights here"):
        lr.logit_lens(lr.load(module), IDS)


def test_a_config_that_no_model_has_is_refused_before_it_is_built():
    config = transformers.LlamaConfig(hidden_size=2**30, vocab_size=2**20, num_hidden_layers=1)
    with pytest.raises(lr.LensError, match="than any model has"):
        lr.estimate(lr.logit_lens, config, IDS)


# -- what is computed --------------------------------------------------


def counted_flops(module, ids) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(input_ids=torch.tensor([ids]), use_cache=False)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_operations_are_those_that_torch_counts(family):
    module = tiny.FAMILIES[family]()
    module.set_attn_implementation("eager")
    model = lr.load(module)
    ids = [7 + n for n in range(16)]
    run = prepare_run(lr.logit_lens, model, [ids])
    size = model_size(run)
    said = 16 * (size.flops_per_token + size.flops_per_logits) + 256 * size.flops_per_pair
    assert said == pytest.approx(counted_flops(module, ids), rel=0.02)


def test_a_token_meets_the_experts_that_it_takes():
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=101, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1,
    )  # fmt: skip
    with torch.device("meta"):
        blocks = transformers.MixtralForCausalLM(config).model.layers
    n_all = sum(each.numel() for each in blocks.parameters() if each.ndim > 1)
    n_of_experts = 2 * 4 * 3 * 32 * 64
    assert weights_of_token(blocks, config) == n_all - n_of_experts * 3 / 4


def test_pulling_gradients_back_costs_a_pass_for_each_dimension():
    said = lr.estimate(lr.fit_lens, llama_70b(), [list(range(9, 73))] * 1, kind="jacobian")
    assert said.jobs == said.bytes_up == said.server_bytes == 0
    assert "which run here alone: about" in str(said)
    forward, pulled = said.work
    assert forward.float32_flops == 0  # no products of streams are summed
    # Sources are the tokens 16 to 62; the last one does not run. Of five blocks, four come after a stream.
    of_block = 2 * (8192 * (8192 * 2 + 1024 * 2) + 3 * 8192 * 28672)
    of_attention = 8 * 63 * 8192
    assert pulled.pass_flops == pytest.approx(47 * 8192 * 4 * (of_block + of_attention))
    assert pulled.passes == 8192 / 64
    assert "without" not in str(said)


def test_pulling_back_computes_what_torch_counts():
    module = tiny.FAMILIES["llama"]()
    module.set_attn_implementation("eager")
    model = lr.load(module)
    ids = [7 + n for n in range(40)]
    jacobians = PromptJacobians(model, [1, 2], dimensions_at_once=8)
    jacobians.of_prompt(ids, 8)  # finds out how this model is to be run
    counted = []
    for n_dimensions in (8, 16):
        with FlopCounterMode(display=False) as counter:
            jacobians.of_prompt(ids, n_dimensions)
        counted.append(counter.get_total_flops())
    pulled = jacobians.pulled_back([len(ids)], PROCESSOR)
    size = model_size(prepare_run(lr.logit_lens, model, [ids]))
    said = pulled_work(pulled, size, lr.anatomy(model).n_layers)
    assert said.pass_flops * 8 / 32 == pytest.approx(counted[1] - counted[0], rel=0.02)
    assert said.passes == 4


def test_a_fit_says_that_solving_is_not_counted():
    said = lr.estimate(lr.fit_lens, llama_70b(), [list(range(9, 73))] * 2, kind="linear")
    assert "(without solving for the lens" in str(said)


def test_the_weights_of_a_large_model_are_read_once_a_pass():
    """One token of a large model takes as long as reading it, many take as long as computing."""
    model = llama_70b()
    said = lr.estimate(lr.logit_lens, model, [[9]], positions=-1)
    n_weights = sum(each.numel() for each in model.parameters())
    assert said.weight_bytes == 2 * n_weights
    reading = lr.Machine(seconds_per_pass=0)
    assert said.seconds_of_work(reading) == pytest.approx(2 * n_weights / 2e12, rel=0.1)
    assert said.seconds_of_work() == pytest.approx(said.seconds_of_work(reading) + 0.05)
    many = lr.estimate(lr.logit_lens, model, [list(range(9, 1009))], positions=-1)
    fast, slow = (
        many.seconds_of_work(lr.Machine(flop_per_s=n, seconds_per_pass=0)) for n in (2e14, 1e14)
    )
    assert slow == pytest.approx(2 * fast, rel=0.05)


def small_config(**changes):
    return transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=101, num_attention_heads=4,
        num_key_value_heads=2, **changes,
    )  # fmt: skip


def test_a_cache_is_as_wide_as_the_heads_are():
    """Of Gemma 2 they are together wider than the stream."""
    narrow, wide = (
        lr.estimate(lr.generate_lens, small_config(head_dim=n), [[7, 8, 9]], max_new_tokens=5)
        for n in (8, 16)
    )
    assert wide.server_bytes - narrow.server_bytes == 2 * 2 * (3 + 5) * 2 * 8 * 4


def test_a_tile_is_no_wider_than_the_vocabulary(monkeypatch):
    said = lr.estimate(lr.logit_lens, small_config(dtype=torch.bfloat16), [[7, 8, 9]])
    narrow = ACCELERATOR._replace(tile_columns=128)
    monkeypatch.setattr(asked_kernels, "ACCELERATOR", narrow)
    same = lr.estimate(lr.logit_lens, small_config(dtype=torch.bfloat16), [[7, 8, 9]])
    assert said.server_bytes == same.server_bytes


def test_kernels_are_those_of_the_device_or_of_the_precision_where_there_is_none(llama):
    assert expected_kernels(llama) is PROCESSOR
    half = lr.load(tiny.FAMILIES["llama"]().to(torch.bfloat16))
    assert expected_kernels(half) is PROCESSOR
    for dtype, chosen in ((torch.float32, PROCESSOR), (torch.bfloat16, ACCELERATOR)):
        assert expected_kernels(model_on_paper(small_config(dtype=dtype))) is chosen


def test_an_estimate_names_what_it_assumes(client):
    said = lr.estimate(lr.logit_lens, client._module.config, IDS)
    assert str(lr.Machine()) in str(said)
    assert (
        "400 TFLOP/s (40 in float32), 2000 GB/s of memory, 10 MB/s on the line, 3 s a job, 0.05 s a pass"
        in str(said)
    )
    slow = lr.Machine(line_bytes_per_s=1e3, seconds_per_job=0)
    assert said.seconds_on_the_way(slow) == (said.bytes_up + said.bytes_back) / 1e3
    assert said.seconds_on(slow) == said.seconds_of_work(slow) + said.seconds_on_the_way(slow)
    unknown = lr.estimate(lr.attribution, client._module.config, IDS, targets=9)
    assert unknown.work is unknown.flops is unknown.seconds_on() is None


@pytest.mark.parametrize("wrong", [0, -1, "fast", True, float("inf"), float("nan")])
def test_a_machine_has_speeds(wrong):
    with pytest.raises(ValueError, match="flop_per_s="):
        lr.Machine(flop_per_s=wrong)


def test_a_tuned_fit_on_paper_names_what_is_not_counted():
    """It calls modules after the model has run: on paper that is no offloaded weight."""
    said = lr.estimate(lr.fit_lens, llama_70b(), [list(range(9, 73))] * 9, kind="tuned")
    assert "training it" in str(said)


@pytest.mark.parametrize(
    ("config", "said"),
    [(transformers.T5Config(), "encoder–decoder"), (transformers.ViTConfig(), "decoder that predicts")],
)  # fmt: skip
def test_a_config_of_no_decoder_is_refused_in_a_sentence(config, said):
    with pytest.raises(lr.LensError, match=said):
        lr.estimate(lr.logit_lens, config, [[1, 2, 3]])


def test_a_multimodal_config_is_estimated_by_its_decoder():
    text = small_config()
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )  # fmt: skip
    whole = transformers.LlavaConfig(text_config=text, vision_config=vision)
    said = lr.estimate(lr.logit_lens, whole, [[1, 2, 3]])
    alone = lr.estimate(lr.logit_lens, text, [[1, 2, 3]])
    assert said.bytes_back == alone.bytes_back
    assert said.weight_bytes > alone.weight_bytes
