"""What a user's program has set in torch around a recipe: defaults, autocast, deterministic algorithms.

The model runs as it would outside of a recipe. What the recipe computes by itself does not change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny
import torch
from slow import others_slow
from torch.overrides import TorchFunctionMode

import lens_recipes as lr

PACKAGE = Path(lr.__file__).parent
FACTORIES = (
    *(torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace),
    *(torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor),
    *(torch.tril_indices, torch.triu_indices, torch.zeros),
)
PROMPTS = ["one two three", "four five six seven eight"]  # of two lengths: padding is tried
VECTORS = np.random.default_rng(0).standard_normal((3, 32)).tolist()

RECIPES = {
    "lens": lambda model: lr.logit_lens(
        model, PROMPTS, components=["resid_post", "resid_mid", "mlp_out"], targets=9
    ),
    "heads": lambda model: lr.logit_lens(model, PROMPTS, components="head_out"),
    "far apart": lambda model: lr.logit_lens(model, PROMPTS[1], positions=[0, -1]),
    "layers": lambda model: lr.attribution(model, PROMPTS, targets=9, against="mean"),
    "by head": lambda model: lr.attribution(model, PROMPTS, targets=9, unit="head"),
    "by token": lambda model: lr.attribution(model, PROMPTS, targets=9, against=11, unit="token"),
    "greedy": lambda model: lr.generate_lens(model, PROMPTS, max_new_tokens=4, do_sample=False),
    "sampled": lambda model: lr.generate_lens(
        model, PROMPTS, max_new_tokens=4, do_sample=True, seed=3, stop="q", include_prompt=True
    ),
    "vectors": lambda model: lr.decode_vectors(model, VECTORS, targets=9),
    "rehearsed lens": lambda model: lr.logit_lens(model, PROMPTS, remote="local"),
    "rehearsed heads": lambda model: lr.attribution(
        model, PROMPTS, targets=9, unit="head", remote="local"
    ),
    "rehearsed text": lambda model: lr.generate_lens(
        model, PROMPTS, max_new_tokens=4, do_sample=False, remote="local"
    ),
    "rehearsed vectors": lambda model: lr.decode_vectors(model, VECTORS, remote="local"),
}


def tiny_model(**settings):
    module = tiny.llama(vocab_size=tiny.STRING_VOCAB, **settings)
    return lr.load(module, tokenizer=tiny.tiny_tokenizer())


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class DefaultDevice(TorchFunctionMode):
    """As `torch.set_default_device` for a device that is not the model's.

    What this package makes without naming a device has no numbers then. What nnsight and
    transformers make so would come back to the model's device, and stays there.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in FACTORIES and kwargs.get("device") is None:
            caller = sys._getframe(1).f_code.co_filename
            kwargs["device"] = "meta" if Path(caller).is_relative_to(PACKAGE) else "cpu"
        return function(*args, **kwargs)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "another device": DefaultDevice,
    "deterministic": deterministic,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
}


def same_arrays(result, expected):
    """Every array of a result is bit-equal to that of another."""
    for field in dataclasses.fields(expected):
        value = getattr(expected, field.name)
        if isinstance(value, np.ndarray):
            actual = getattr(result, field.name)
            assert actual.dtype == value.dtype, field.name
            np.testing.assert_array_equal(actual, value, err_msg=field.name)
    assert result.certificate == expected.certificate


@pytest.fixture(scope="module")
def plain():
    """What each recipe gives where nothing is set, computed once."""
    model = tiny_model()
    return {name: recipe(model) for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("state", others_slow(STATES, next(iter(STATES))))
def test_what_is_set_in_torch_changes_no_number(plain, state):
    model = tiny_model()  # examined, and padding tried, in that state
    with STATES[state]():
        results = {name: recipe(model) for name, recipe in RECIPES.items()}
    for name, result in results.items():
        same_arrays(result, plain[name])


@pytest.mark.parametrize("state", others_slow([*STATES, "autocast"], "autocast"))
def test_a_pasted_script_is_the_same(folder, state):
    expected = lr.paste("attribution", folder)
    with {**STATES, "autocast": autocast}[state]():
        assert lr.paste("attribution", folder) == expected
        model = lr.load(folder)
        assert (
            lr.lens_head(model)(torch.ones(2, 32, dtype=torch.float32, device="cpu")).shape[0] == 2
        )


# -- autocast ----------------------------------------------------------

IDS = tiny.random_ids(batch=2, length=7)


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_in_autocast_is_certified_in_its_precision(name):
    with autocast():
        certificate = RECIPES[name](tiny_model()).certificate
    if "vectors" in name:
        assert certificate is None
        return
    assert certificate.passed
    assert certificate.dtype == "bfloat16"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lens_in_autocast_is_that_of_the_model_in_autocast(family, dtype):
    module = tiny.FAMILIES[family]()
    model = lr.load(module)
    in_full = lr.logit_lens(model, IDS, targets=9)
    with autocast(dtype):
        result = lr.logit_lens(model, IDS, targets=9)
        own = module(IDS).logits.float()
        layers = oracle.early_exit_logits(module, IDS).log_softmax(-1)
    own_logprobs = own.log_softmax(-1).amax(-1).flatten()
    np.testing.assert_allclose(result.model_logprobs, own_logprobs, atol=1e-5)
    assert abs(in_full.model_logprobs - own_logprobs.numpy()).max() > 1e-3
    expected = layers[..., 9].flatten(1)
    scale = float(own.abs().max())
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(result.target_logprobs[..., 0], expected, atol=2 * eps * scale)


def test_a_model_that_runs_in_autocast_alone_is_read_there():
    """As where adapters or an unembedding are kept in float32 beside a model in half precision."""
    module = tiny.llama()
    module.model.to(torch.bfloat16)
    model = lr.load(module)
    with pytest.raises(lr.LensError, match="did not run"):
        lr.logit_lens(model, IDS)
    with autocast():
        assert lr.logit_lens(model, IDS, components="head_out").certificate.passed
        assert lr.attribution(model, IDS, 9, unit="head").certificate.passed


def test_the_shares_of_a_logit_in_autocast_are_those_of_a_model_in_bfloat16():
    """Products of the package's own are not rounded as the model's are."""
    for unit in ("component", "head"):
        in_full = lr.attribution(tiny_model(), PROMPTS, 9, unit=unit)
        with autocast():
            result = lr.attribution(tiny_model(), PROMPTS, 9, unit=unit)
        scale = abs(in_full.values).max()
        np.testing.assert_allclose(result.values, in_full.values, atol=0.02 * scale)
        if unit == "component":  # a head's share comes out of a product of the model's own
            assert result.certificate.max_sum_error < 1e-5


def test_small_heads_are_not_rounded_away_in_autocast():
    """Beside a large bias of the projection, which is taken off again."""
    module = tiny.FAMILIES["gpt2"]()
    for block in module.transformer.h:
        bias = block.attn.c_proj.bias
        bias.copy_(30 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
        block.attn.c_proj.weight.mul_(0.01)
    model = lr.load(module)
    in_full = lr.attribution(model, IDS, 9, unit="head")
    heads = [row for row, part in enumerate(in_full.parts) if part.component == "head_out"]
    with autocast():
        result = lr.attribution(model, IDS, 9, unit="head")
    scale = abs(in_full.values[heads]).max()
    np.testing.assert_allclose(result.values[heads], in_full.values[heads], atol=0.05 * scale)


def test_vectors_in_autocast_say_how_they_were_rounded():
    model = tiny_model()
    assert lr.decode_vectors(model, VECTORS).provenance["dtype"] == "float32"
    with autocast():
        assert lr.decode_vectors(model, VECTORS).provenance["dtype"] == "bfloat16"


def test_prompts_in_autocast_share_a_batch():
    """What padding changes there is rounding, as in a model in bfloat16."""
    from lens_recipes.run import batches
    from lens_recipes.run.request.request import Request

    with autocast():
        assert batches.padding_is_harmless(Request(tiny_model(), PROMPTS))


def test_a_certificate_in_autocast_still_finds_what_is_wrong(monkeypatch):
    from dataclasses import replace

    from lens_recipes.models.structure.known import known_model
    from lens_recipes.trace.operations import Elementwise

    model = lr.load(tiny.FAMILIES["gemma2"]())
    parts = lr.anatomy(model)
    tail = [step for step in parts.tail if not isinstance(step, Elementwise)]
    monkeypatch.setattr(known_model(model), "anatomy", replace(parts, tail=tail))
    with autocast(), pytest.raises(lr.LensError, match="NOT CERTIFIED"):
        lr.logit_lens(model, IDS)
