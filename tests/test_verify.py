"""`result.verify(model)`: what a file says is what the model says, or which number is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import lens_recipes as lr

PROMPTS = ["The capital of France is", "One two"]
TARGETS = [" the", 7]
MADE = {
    "lens": lambda model: lr.logit_lens(model, PROMPTS, targets=TARGETS),
    "targets of each": lambda model: lr.logit_lens(
        model, PROMPTS, targets=[[7], [8]], positions=-1
    ),
    "ids": lambda model: lr.logit_lens(model, [[5, 6, 7], [8, 9]], top_k=320, track=3),
    "positions of each": lambda model: lr.logit_lens(model, PROMPTS, positions=[[0, 2], [1]]),
    "components": lambda model: lr.logit_lens(
        model, PROMPTS, layers=slice(1, 3), components=["resid_post", "attn_out", "head_out"]
    ),
    "heads": lambda model: lr.logit_lens(model, PROMPTS, components="head_out", heads=[(1, 2)]),
    "raw": lambda model: lr.logit_lens(model, PROMPTS, apply_norm=False),
    "generation": lambda model: lr.generate_lens(
        model, PROMPTS, max_new_tokens=5, do_sample=True, seed=3, targets=TARGETS
    ),
    "with its prompt": lambda model: lr.generate_lens(
        model, PROMPTS, max_new_tokens=3, include_prompt=True
    ),
    "by layer": lambda model: lr.attribution(model, PROMPTS, TARGETS),
    "against a token": lambda model: lr.attribution(
        model, PROMPTS, [[7], [8]], against=[9, 10], unit="component"
    ),
    "against the mean": lambda model: lr.attribution(
        model, PROMPTS, 7, against="mean", unit="head", at_layer=1
    ),
    "by token": lambda model: lr.attribution(model, PROMPTS, 7, unit="token"),
}
ARRAYS = (
    "top_ids",
    "top_logprobs",
    "entropy",
    "kl_to_final",
    "logsumexp",
    "next_logprobs",
    "final_ids",
    "model_logprobs",
    "model_entropy",
    "final_logprobs",
    "final_ranks",
    "target_logits",
    "target_logprobs",
    "target_ranks",
    "tracked_logprobs",
)


@pytest.fixture(scope="module")
def results(llama):
    return {name: make(llama) for name, make in MADE.items()}


def loaded(result, path):
    """The result as its file says."""
    result.save(path)
    return type(result).load(path)


@pytest.mark.parametrize("name", MADE)
def test_what_was_saved_is_what_the_model_says(results, llama, tmp_path, name):
    of_file = loaded(results[name], tmp_path / "a.npz")
    assert str(of_file.certificate).startswith("as saved, not checked here: ")
    verified = of_file.verify(llama)
    assert str(verified.certificate).startswith("certified: ")
    assert verified.provenance == results[name].provenance


def test_one_prompt_of_several(results, llama):
    for name in ("lens", "generation", "against a token"):
        assert len(results[name][1].verify(llama)) == 1


def test_a_saved_verified_result_is_as_saved_again(results, llama, tmp_path):
    verified = loaded(results["lens"], tmp_path / "a.json").verify(llama)
    again = loaded(verified, tmp_path / "b.json")
    assert again.certificate.as_saved
    assert not verified.certificate.as_saved


def test_an_encoding_is_kept_with_all_that_it_has(llama, tmp_path):
    encoding = {"input_ids": torch.tensor([[5, 6, 7]]), "position_ids": torch.tensor([[0, 5, 9]])}
    of_file = loaded(lr.logit_lens(llama, encoding), tmp_path / "a.json")
    assert of_file.inputs == [{"input_ids": [5, 6, 7], "position_ids": [0, 5, 9]}]
    of_file.verify(llama)
    without = dataclasses.replace(of_file, inputs=[{"input_ids": [5, 6, 7]}])
    with pytest.raises(lr.LensError, match="not what this model says"):
        without.verify(llama)


# -- what is not the model's ------------------------------------------


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_number_that_the_model_does_not_say_is_named(results, llama, name, place):
    result = results["lens"]
    numbers = getattr(result, name).copy()
    known = np.flatnonzero(np.isfinite(numbers))
    numbers.flat[known[0 if place == "first" else -1]] += 40
    with pytest.raises(lr.LensError, match=rf"{name}\[\d.* is .*, where the model says ") as error:
        dataclasses.replace(result, **{name: numbers}).verify(llama)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["values", "total", "logit", "capped_logit"])
def test_a_part_that_the_model_does_not_add_is_named(results, llama, name):
    result = results["by layer"]
    numbers = getattr(result, name).copy()
    numbers.flat[-1] += 1
    with pytest.raises(lr.LensError, match=rf"{name}\["):
        dataclasses.replace(result, **{name: numbers}).verify(llama)


def test_what_was_not_written_is_told(results, llama):
    result = results["generation"]
    responses = [lr.Response("nothing of it", "length"), *result.responses[1:]]
    with pytest.raises(lr.LensError, match="its responses"):
        dataclasses.replace(result, responses=responses).verify(llama)
    logprobs = result.tokens.next_logprob - 1
    tokens = dataclasses.replace(result.tokens, next_logprob=logprobs)
    with pytest.raises(lr.LensError, match="next_logprob"):
        dataclasses.replace(result, tokens=tokens).verify(llama)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompts": ["Another text", "One two"]}, "its prompts are not those"),
        ({"sites": [lr.Site(0, "resid_mid")] * 4}, "its sites are not those"),
        ({"inputs": [{"input_ids": [400]}, {"input_ids": [8]}]}, "cannot be run again"),
        ({"inputs": [{}, {}]}, "cannot be run again"),
        ({"inputs": []}, "does not keep what the model was given"),
        ({"provenance": {}}, "cannot be run again"),
        ({"provenance": {"arguments": {"layers": "a:b"}}}, "cannot be run again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_belong_together_is_told(results, llama, changed, words):
    with pytest.raises(lr.LensError, match=words):
        dataclasses.replace(results["lens"], **changed).verify(llama)


def test_another_text_of_a_token_is_told(results, llama):
    texts = dict.fromkeys(results["lens"].texts, "x")
    with pytest.raises(lr.LensError, match="is said to be 'x'"):
        dataclasses.replace(results["lens"], texts=texts).verify(llama)


def test_another_model_says_something_else(results):
    module = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    with torch.no_grad():
        module.model.layers[1].mlp.down_proj.weight.mul_(1.1)
    other = lr.load(module, tokenizer=tiny.tiny_tokenizer())
    for name in ("lens", "generation", "by token"):
        with pytest.raises(lr.LensError, match="where the model says"):
            results[name].verify(other)


def test_another_order_of_additions_is_rounding(results, llama):
    """Other batches, other kernels: the same numbers up to rounding, and ranks that are tied."""
    result = results["lens"]
    generator = np.random.default_rng(0)
    changed = {}
    for name in ("entropy", "kl_to_final", "logsumexp", "target_logits", "final_logprobs"):
        numbers = getattr(result, name)
        noise = generator.uniform(-1, 1, numbers.shape) * 1e-4
        changed[name] = (numbers + noise).astype(numbers.dtype)
    dataclasses.replace(result, **changed).verify(llama)


def test_vectors_are_not_kept(llama):
    with pytest.raises(lr.LensError, match="does not keep what the model was given"):
        lr.decode_vectors(llama, np.ones(32)).verify(llama)


# -- how it is shown ---------------------------------------------------


def test_no_view_of_a_file_says_certified(results, tmp_path):
    of_file = loaded(results["lens"], tmp_path / "a.json")
    lr.report(of_file, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    page = page[page.index('<p class="proof">') : page.index("</header>")]
    figure = lr.heatmap(of_file).to_json()
    for shown in (str(of_file), of_file._repr_html_(), of_file.summary(), page, figure):
        assert "certified" not in shown
    for shown in (str(of_file), of_file._repr_html_(), page, figure):
        assert "as saved" in shown


def test_a_shell_verifies_as_well(results, llama, cli, tmp_path):
    results["lens"].save(tmp_path / "a.json")
    run = cli(llama)
    status, out, err = run("show", str(tmp_path / "a.json"), "--verify", "tiny")
    assert (status, err) == (0, "")
    assert "certified: " in out
    changed = dataclasses.replace(results["lens"], entropy=results["lens"].entropy + 1)
    changed.save(tmp_path / "b.json")
    status, out, err = run("show", str(tmp_path / "b.json"), "--verify", "tiny")
    assert (status, out) == (1, "")
    assert err.startswith("lens-recipes: this result is not what this model says: entropy[0, 0] is")
