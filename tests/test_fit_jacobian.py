"""The Jacobian lens's estimator, against every partial derivative of tiny models."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lens_recipes as lr
from lens_recipes.lenses.solve.jacobian import solve_jacobian
from lens_recipes.recipes.lenses.estimators.jacobian import PromptJacobians
from lens_recipes.trace.operations import first_of

FAMILIES = ["gpt2", "gpt_neox", "llama", "gemma2", "falcon", "cohere", "doge", "rwkv", "mamba"]


@pytest.fixture
def no_float32(monkeypatch):
    """What a model casts to float32 (its norms, rotations and softmaxes) becomes float64."""
    to, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def widened(value):
        return torch.float64 if value is torch.float32 else value

    def to_double(tensor, *values, **named):
        named = {name: widened(value) for name, value in named.items()}
        return to(tensor, *[widened(value) for value in values], **named)

    def double_softmax(*values, dtype=None, **named):
        return softmax(*values, dtype=widened(dtype), **named)

    monkeypatch.setattr(torch.Tensor, "to", to_double)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch.nn.functional, "softmax", double_softmax)


def double(family):
    """A loaded model of a family in float64."""
    return lr.load(tiny.FAMILIES[family]().double())


def random_ids(length, seed=0):
    return tiny.random_ids(1, length, seed).tolist()[0]


def estimator_of(model, **settings):
    """The estimator of all layers that a fit has."""
    return PromptJacobians(model, lr.anatomy(model).layers[:-1], **settings)


def jacobians_of(model, ids, **settings):
    """The Jacobians of one prompt, `[layer, d_out, d_in]`."""
    return estimator_of(model, **settings).of_prompt(ids)


def every_derivative(model, ids, layers):
    """∂final[t'] / ∂h[t] of some layers, `[layer, t', d_out, t, d_in]`: by `jacrev`, the whole prompt at once."""
    parts = lr.anatomy(model)
    blocks = {layer: model.get(parts.block(layer))._module for layer in parts.layers}

    def final_stream(changes):
        """The last block's output where a change was added to the stream after some layers."""
        finals = []

        def change(layer):
            def hook(block, inputs, output):
                changed = first_of(output) + changes[layers.index(layer)]
                return (
                    type(output)([changed, *output[1:]]) if isinstance(output, tuple) else changed
                )

            return hook

        hooks = [blocks[layer].register_forward_hook(change(layer)) for layer in layers]
        last = blocks[parts.last_layer]
        hooks.append(
            last.register_forward_hook(lambda b, i, output: finals.append(first_of(output)))
        )
        options = {"use_cache": False} if "use_cache" in parts.forward_options else {}
        try:
            model._module(input_ids=torch.tensor([ids]), **options)
        finally:
            for hook in hooks:
                hook.remove()
        return finals[0][0]

    none = torch.zeros(len(layers), len(ids), parts.d_model, dtype=torch.float64)
    return torch.func.jacrev(final_stream)(none).permute(2, 0, 1, 3, 4)


def expected(model, ids, layers, first):
    """What the estimator is: the mean over sources t of the sum over targets t' ≥ t, both from `first` to the last but one."""
    derivatives = every_derivative(model, ids, layers)
    total = torch.zeros(len(layers), *derivatives.shape[2::2], dtype=torch.float64)
    places = range(first, len(ids) - 1)
    for source in places:
        for target in places:
            if target >= source:
                total += derivatives[:, target, :, source]
    return total / len(places)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("length", "first"), [(9, 3), (20, 16)])
def test_it_is_the_mean_over_sources_of_the_sum_over_later_targets(
    family, length, first, no_float32
):
    model = double(family)
    ids = random_ids(length)
    layers = list(lr.anatomy(model).layers[:-1])
    found = jacobians_of(model, ids, first_position=first)
    assert found.dtype == torch.float64
    true = expected(model, ids, layers, first)
    assert (found - true).abs().max() <= 1e-8 * max(1, true.abs().max())


@pytest.mark.parametrize("family", ["llama", "rwkv"])
def test_one_row_each_gives_the_same_as_a_batch_of_gradients(family):
    model = double(family)
    ids = random_ids(20)
    batched = estimator_of(model, dimensions_at_once=32)
    repeated = estimator_of(model, dimensions_at_once=5)
    repeated.is_batched = False
    torch.testing.assert_close(repeated.of_prompt(ids), batched.of_prompt(ids), rtol=0, atol=1e-10)
    assert batched.is_batched


def test_the_past_runs_once_where_a_model_can_go_on_from_its_cache():
    ids = random_ids(22)
    for family, uses_cache in [("llama", True), ("falcon", True), ("mamba", False)]:
        with_tokenizer = lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())
        for model in (tiny.shared(family), with_tokenizer):
            estimator = estimator_of(model)
            estimator.of_prompt(ids)
            assert estimator.graph.uses_cache is uses_cache


class RefusesABatch(torch.autograd.Function):
    """The identity, whose gradient looks at a number, which a batch of gradients does not have."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient if gradient.sum().item() > -1e9 else -gradient


def test_an_operation_without_a_rule_for_batches_is_no_hindrance():
    model = double("llama")
    ids = random_ids(20)
    plain = jacobians_of(model, ids)
    mlp = model._module.model.layers[2].mlp
    forward = mlp.forward
    mlp.forward = lambda x: RefusesABatch.apply(forward(x))
    estimator = estimator_of(model)
    torch.testing.assert_close(estimator.of_prompt(ids), plain, rtol=0, atol=1e-10)
    assert not estimator.is_batched


def test_a_stream_that_a_block_changes_in_place_is_the_one_before_the_change():
    ids = random_ids(20)
    plain, changing = double("llama"), double("llama")
    for model, scale in [(plain, torch.mul), (changing, torch.Tensor.mul_)]:
        block = model._module.model.layers[2]

        def scaled(hidden, *more, forward=block.forward, scale=scale, **options):
            return forward(scale(hidden, 1.5), *more, **options)

        block.forward = scaled
    torch.testing.assert_close(jacobians_of(changing, ids), jacobians_of(plain, ids))


def test_a_stream_that_no_gradient_reaches_is_named():
    model = double("llama")
    block = model._module.model.layers[2]
    forward = block.forward
    block.forward = lambda hidden, *more, **options: forward(hidden.detach(), *more, **options)
    with pytest.raises(lr.LensError, match=r"no gradient reaches the stream after layer 0"):
        jacobians_of(model, random_ids(20))
    block.forward = lambda hidden, *more, **options: forward(hidden, *more, **options).detach()
    with pytest.raises(lr.LensError, match=r'kind="linear"'):
        jacobians_of(model, random_ids(20))


def test_a_prompt_without_a_source_is_refused():
    model = tiny.shared("gpt2")
    with pytest.raises(lr.LensError, match="17 tokens has no position that counts"):
        jacobians_of(model, random_ids(17))
    assert jacobians_of(model, random_ids(18)).abs().sum() > 0


def test_prompts_weigh_the_same_whatever_half_they_are_in():
    model = tiny.shared("gpt2")
    rows = [random_ids(length, seed=length) for length in (18, 25, 31)]
    jacobians = [jacobians_of(model, row).double() for row in rows]
    sums = {
        "a.jacobian": jacobians[0] + jacobians[1],
        "a.n_prompts": torch.tensor([2]),
        "b.jacobian": jacobians[2],
        "b.n_prompts": torch.tensor([1]),
    }
    solution = solve_jacobian(sums, [0, 1, 2])
    assert list(solution.transports) == [0, 1, 2]
    mean = torch.stack(jacobians).mean(0).float()
    for layer, transport in solution.transports.items():
        torch.testing.assert_close(transport.weight, mean[layer])
        assert transport.bias is None
    torch.testing.assert_close(solution.halves[1][2].weight, jacobians[2][2].float())


def test_memory_does_not_change_the_result():
    model = tiny.shared("llama")
    ids = random_ids(20)
    one = jacobians_of(model, ids, max_bytes=1)
    torch.testing.assert_close(one, jacobians_of(model, ids))
    alone = PromptJacobians(model, [1]).of_prompt(ids)
    torch.testing.assert_close(alone, one[1:2])


def test_weights_and_settings_are_left_as_they_were():
    model = lr.load(tiny.FAMILIES["llama"]())
    weights = dict(model._module.named_parameters())
    for number, weight in enumerate(weights.values()):
        weight.requires_grad_(number % 2 == 0)
    ids = random_ids(20)
    with torch.inference_mode():
        inside = jacobians_of(model, ids)
    with torch.no_grad():
        outside = jacobians_of(model, ids)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(inside.clone(), outside)
    for number, weight in enumerate(weights.values()):
        assert weight.requires_grad == (number % 2 == 0)
        assert weight.grad is None


def test_what_has_no_jacobian_lens_is_refused():
    rows = [random_ids(20, seed=number) for number in range(8)]
    model = tiny.shared("gpt2")
    with pytest.raises(ValueError, match="5"):
        lr.fit_lens(model, rows, kind="jacobian", layers=[5])
    with pytest.raises(ValueError, match="leaves nothing to fit"):
        lr.fit_lens(model, rows, kind="jacobian", layers=[3])
    training = lr.load(tiny.FAMILIES["gpt2"]())
    training._module.train()
    with pytest.raises(lr.LensError, match="training mode"):
        lr.fit_lens(training, rows, kind="jacobian")
    one_block = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=32)
    )
    with pytest.raises(lr.LensError, match="only one block"):
        lr.fit_lens(lr.load(one_block.eval()), rows, kind="jacobian")
