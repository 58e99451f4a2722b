"""The tuned lens's training: its gradient, its head, and that no stream gets worse than its start."""

from __future__ import annotations

import pytest
import tiny
import torch

import lens_recipes as lr
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.recipes.lenses.estimators.tuned import train_tuned
from lens_recipes.trace.fit.tuned import (
    head_logits,
    head_probabilities,
    kl_divergences,
    kl_gradient,
    orthogonalised,
    whiten,
)
from lens_recipes.trace.transport import Affine

HEADS = [
    "llama",
    "gemma2",
    "cohere",
    "granite",
    "opt_project",
    "bert_lm",
]  # softcap, scales, projections
SMALL = {"steps": 6, "tokens_per_step": 64, "validation_tokens": 48}


def some_rows(number=24, length=12):
    return tiny.random_ids(number, length, seed=3).tolist()


def identities(model, streams=None):
    """Transports that leave every vector as it is."""
    parts = lr.anatomy(model)
    chosen = [EMBEDDING, *parts.layers[:-1]] if streams is None else streams
    return {stream: Affine(torch.eye(parts.d_model)) for stream in chosen}


def same(left, right):
    """Whether two sets of transports are the same, number by number."""
    assert left.keys() == right.keys()
    for stream, transport in left.items():
        torch.testing.assert_close(transport.weight, right[stream].weight, rtol=0, atol=2e-6)
        torch.testing.assert_close(transport.bias, right[stream].bias, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", HEADS)
def test_the_gradient_is_that_of_the_divergence(family):
    model = lr.load(tiny.FAMILIES[family]().double())
    head = lr.lens_head(model)
    generator = torch.Generator().manual_seed(0)
    shape = (5, lr.anatomy(model).d_model)
    final, rows = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    own = head_probabilities(head, final)
    rows.requires_grad_(True)
    logprobs = head_logits(head, rows).log_softmax(-1)
    divergences = (own * (own.log() - logprobs)).sum(-1)
    expected = torch.autograd.grad(divergences.sum(), rows)[0]
    found = kl_gradient(head, rows, own, torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    direct = kl_divergences(head, rows.detach(), own, torch.float64)
    torch.testing.assert_close(direct, divergences.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", HEADS)
def test_the_head_is_the_models_own(family):
    """Softcap and logit scale are part of what is trained through: on the final stream it gives the model's logits."""
    model = tiny.shared(family)
    ids = some_rows(1)
    parts = lr.anatomy(model)
    streams = []
    block = model.get(parts.block(parts.last_layer))._module
    hook = block.register_forward_hook(
        lambda module, inputs, output: streams.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    try:
        logits = model._module(input_ids=torch.tensor(ids)).logits[0]
    finally:
        hook.remove()
    found = head_logits(lr.lens_head(model), streams[0][0])
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "rwkv"])
def test_training_brings_every_stream_nearer_to_the_model(family):
    """Seen from outside: the lens is read on text that was not trained on, and is nearer to the model's output."""
    model = tiny.shared(family)
    start = identities(model)
    trained = train_tuned(model, some_rows(40), start, **{**SMALL, "steps": 20})
    assert trained.kl.keys() == start.keys()
    for stream in start:
        assert trained.kl[stream] <= trained.start_kl[stream]
    assert sum(trained.kl.values()) < 0.9 * sum(trained.start_kl.values())
    unseen = tiny.random_ids(6, 12, seed=99).tolist()
    lens = lr.Lens("tuned", trained.transports)
    with_lens = lr.logit_lens(model, unseen, lens=lens)
    without = lr.logit_lens(model, unseen)
    assert with_lens.kl_to_final[:-1].mean() < 0.95 * without.kl_to_final[:-1].mean()


def test_a_stream_is_never_worse_than_its_start():
    model = tiny.shared("llama")
    start = identities(model, [0, 2])
    absurd = train_tuned(model, some_rows(), start, learning_rate=1e4, **SMALL)
    assert absurd.kl == absurd.start_kl
    assert absurd.transports[0] is start[0]
    exact = {3: Affine(torch.eye(32))}  # the last stream itself: nothing is better
    trained = train_tuned(model, some_rows(), exact, **SMALL)
    assert trained.start_kl[3] == pytest.approx(0, abs=1e-5)
    assert trained.kl[3] <= trained.start_kl[3]


def test_a_start_in_residual_form_is_the_same_start():
    model = tiny.shared("gpt2")
    plain = {1: Affine(1.5 * torch.eye(32), torch.ones(32))}
    residual = {1: Affine(0.5 * torch.eye(32), torch.ones(32), is_residual=True)}
    one = train_tuned(model, some_rows(), plain, **SMALL).transports[1]
    other = train_tuned(model, some_rows(), residual, **SMALL).transports[1]
    assert other.is_residual
    torch.testing.assert_close(other.weight + torch.eye(32), one.weight, rtol=0, atol=1e-4)
    torch.testing.assert_close(other.bias, one.bias, rtol=0, atol=1e-4)


def test_the_seed_decides_and_memory_does_not():
    model = tiny.shared("llama")
    start = identities(model, [EMBEDDING, 1])
    one = train_tuned(model, some_rows(), start, **SMALL)
    again = train_tuned(model, some_rows(), start, max_bytes=101 * 16 * 7, **SMALL)
    same(one.transports, again.transports)
    other = train_tuned(model, some_rows(), start, seed=1, **SMALL)
    assert not torch.equal(other.transports[1].weight, one.transports[1].weight)


def test_short_text_is_used_again_and_steps_are_told():
    model = tiny.shared("llama")
    seen = []
    trained = train_tuned(
        model,
        some_rows(3, 5),
        identities(model, [0]),
        on_step=lambda *step: seen.append(step),
        **SMALL,
    )
    assert seen == [(step, 6) for step in range(1, 7)]
    assert trained.n_tokens == 2 * 4  # two rows to train on, without their first tokens
    with pytest.raises(lr.LensError, match="at least two texts of more than 1 tokens"):
        train_tuned(model, [[7], [7, 8, 9]], identities(model, [0]))


def test_weights_and_settings_are_left_as_they_were():
    model = lr.load(tiny.FAMILIES["llama"]())
    weights = list(model._module.parameters())
    for number, weight in enumerate(weights):
        weight.requires_grad_(number % 2 == 0)
    with torch.no_grad():
        train_tuned(model, some_rows(), identities(model, [0]), **SMALL)
        assert not torch.is_grad_enabled()
    for number, weight in enumerate(weights):
        assert weight.requires_grad == (number % 2 == 0)
        assert weight.grad is None


def test_a_half_precision_model_is_trained_in_float32():
    model = lr.load(tiny.FAMILIES["llama"]().bfloat16())
    trained = train_tuned(model, some_rows(), identities(model, [0]), **SMALL)
    assert trained.transports[0].weight.dtype == torch.float32
    assert trained.kl[0] < trained.start_kl[0]


def test_a_step_moves_all_directions_alike():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(20, 21, generator=generator) * torch.logspace(0, -2, 21)
    sizes = torch.linalg.svdvals(orthogonalised(matrix))
    assert sizes.max() < 1.3
    assert sizes.median() > 0.6


def test_whitened_vectors_vary_alike_and_outliers_weigh_little():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 8, generator=generator) * torch.linspace(1, 3, 8) + 5
    rows[0] = 1e5  # a token with a massive activation
    inputs, weights = whiten(rows).apply(rows)
    assert weights[0] < 1e-6
    spread = inputs[1:, :8].std(0)
    assert spread.max() / spread.min() < 1.7  # 3 before
    assert inputs[1:, :8].mean(0).abs().max() < 0.2
    assert (inputs[:, 8] == 1).all()
