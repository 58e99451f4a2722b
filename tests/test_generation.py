"""What the model writes is what Hugging Face lets it write; what the lens says of it is what a lens says afterwards."""

from __future__ import annotations

import signal
from functools import partial

import numpy as np
import pytest
import strict_local
import tiny
import torch
from agreement import assert_ranks, assert_same_as, assert_same_lens, distributions
from test_remote import NOT_THERE
from transformers import GenerationConfig

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.models.handle import context_length
from lens_recipes.models.structure.block.blocks import residual_blocks
from lens_recipes.recipes.generation import batches as generation_batches
from lens_recipes.recipes.generation import generate as generation
from lens_recipes.recipes.generation import transcript
from lens_recipes.trace.generation import recorder as decoding
from lens_recipes.trace.generation.loop import RecordedLoop
from lens_recipes.trace.lens_head import LensHead

IDS = tiny.random_ids(batch=1, length=7)
NEW = 6
VOCABULARY = tiny.STRING_VOCAB
# One for each kind of cache and of block; the other families: tests/full.
SOME = [
    "llama",
    "gemma2",
    "gpt2",
    "bloom",
    "falcon",
    "mixtral",
    "mamba",
    "falcon_h1",
    "recurrent_gemma",
    "bert_lm",
]
# Arrays that need no tokenizer and no generation to be compared with a plain lens.
LENS = [name for name in AXES if name not in ("target_ids", "tracked_ids", "tracked_logprobs")]


def written(module, ids, **options) -> list[int]:
    """What Hugging Face's own `generate` writes after some ids."""
    ids = torch.as_tensor(ids).reshape(1, -1)
    out = module.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return out[0, ids.shape[1] :].tolist()


def ids_of(result) -> list[int]:
    return result.tokens.next_id[result.tokens.generated].tolist()


def same(one, other, names=LENS, atol=2e-4, everything=None):
    assert_same_lens(one, other, names=names, atol=atol, everything=everything)


def lens_of_the_whole(model, prompt, new, first, **options):
    """`logit_lens` run on prompt and text, at the positions from `first` on that something was written after."""
    return lr.logit_lens(model, [[*prompt, *new[:-1]]], positions=slice(first, None), **options)


# -- equality ----------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_any_family_writes_what_it_writes_and_each_step_is_the_lens_of_the_whole(family):
    """Caches of every kind: full, sliding window, hybrid, state space."""
    model = tiny.shared(family)
    module = model._module
    result = lr.generate_lens(model, IDS, max_new_tokens=NEW, do_sample=False)
    assert ids_of(result) == written(module, IDS, max_new_tokens=NEW, do_sample=False)
    assert result.certificate.passed
    assert result.certificate.tokens == len(result.tokens)
    prompt = IDS[0].tolist()
    after = lens_of_the_whole(model, prompt, ids_of(result), len(prompt) - 1)
    assert (result.tokens.position == after.tokens.position).all()
    assert (result.tokens.id == after.tokens.id).all()
    distributions_after = distributions(
        partial(lens_of_the_whole, model, prompt, ids_of(result), len(prompt) - 1)
    )
    following = np.array(ids_of(result))[:-1]
    assert_ranks(result.next_ranks[:, :-1], distributions_after[:, :-1], following, 4e-4)
    # The whole text has no last next token, and near ties may change places.
    names = [name for name in LENS if not name.startswith("next_")]
    names = [name for name in names if not name.endswith(("ids", "ranks"))]
    same(result, after, names)


@pytest.mark.parametrize("family", ["falcon_h1", "llama"])
def test_a_whole_prompt_is_read_also_where_the_config_says_how_many_logits_there_are(family):
    model = tiny.shared(family)
    said = getattr(model._module.config, "num_logits_to_keep", None)
    result = lr.generate_lens(
        model, [[7, 8, 9, 10]], max_new_tokens=2, do_sample=False, include_prompt=True
    )
    assert result.tokens.position.tolist() == [0, 1, 2, 3, 4]
    result.verify(model)
    assert getattr(model._module.config, "num_logits_to_keep", None) == said


# The last two read padded prompts right and go on wrong: their caches hold the padding.
@pytest.mark.parametrize("family", [*SOME, "git", "minimax"])
def test_any_family_writes_in_a_batch_what_it_writes_alone(family):
    """Padded on the left where that is harmless, apart where it is not (a recurrence that reads padding like text)."""
    model = lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())
    prompts = [[11, 12, 13, 14, 15, 16, 17], [21, 22, 23], [31, 32, 33, 34, 35]]
    together = lr.generate_lens(model, prompts, max_new_tokens=NEW, do_sample=False)
    for number, prompt in enumerate(prompts):
        alone = lr.generate_lens(model, [prompt], max_new_tokens=NEW, do_sample=False)
        assert ids_of(together[number]) == ids_of(alone)
        np.testing.assert_allclose(together[number].top_logprobs, alone.top_logprobs, atol=2e-4)


@pytest.mark.parametrize("family", SOME)
def test_any_family_adds_up_at_every_step(family):
    """In cached steps too, what the blocks and heads add is the stream."""
    model = tiny.shared(family)
    blocks = residual_blocks(model)
    if any(block.unreadable_reason for block in blocks):
        with pytest.raises(lr.LensError, match="cannot be read"):
            lr.generate_lens(model, IDS, max_new_tokens=2, components="attn_out")
        return
    names = {name for block in blocks for name in block.components}
    if all(
        write.heads for block in blocks for write in block.writes if write.component == "attn_out"
    ):
        names |= {"head_out"} if "attn_out" in names else set()
    certificate = lr.generate_lens(
        model, IDS, max_new_tokens=4, components=sorted(names)
    ).certificate
    assert certificate.max_block_error < 1e-5
    assert certificate.max_total_error < 1e-4
    assert certificate.max_head_error is None or certificate.max_head_error < 1e-4


def test_real_weights_greedily(smollm2):
    prompt = "The capital of France is"
    ids = smollm2.tokenizer(prompt).input_ids
    result = lr.generate_lens(
        smollm2, prompt, max_new_tokens=10, do_sample=False, targets=[" Paris"]
    )
    new = written(smollm2._module, ids, max_new_tokens=10, do_sample=False)
    assert ids_of(result) == new
    assert result.responses == [lr.Response(smollm2.tokenizer.decode(new), "length")]
    after = lens_of_the_whole(smollm2, ids, new, len(ids) - 1, targets=[" Paris"])
    np.testing.assert_allclose(result.target_logprobs, after.target_logprobs, atol=2e-3)
    np.testing.assert_allclose(result.top_logprobs, after.top_logprobs, atol=2e-3)
    np.testing.assert_allclose(result.next_logprobs[:, :-1], after.next_logprobs[:, :-1], atol=2e-3)


SAMPLERS = [{"temperature": 0.8}, {"top_p": 0.7, "sample_top_k": 7}]


@pytest.mark.parametrize("seed", [0])  # more of them: tests/full
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampled_text_is_that_of_the_same_seed(smollm2, seed, sampler):
    named = {"top_k" if key == "sample_top_k" else key: value for key, value in sampler.items()}
    result = lr.generate_lens(smollm2, "Once upon a time", max_new_tokens=NEW, seed=seed, **sampler)
    ids = smollm2.tokenizer("Once upon a time").input_ids
    torch.manual_seed(seed)
    assert ids_of(result) == written(
        smollm2._module, ids, max_new_tokens=NEW, do_sample=True, **named
    )


@pytest.mark.parametrize("family", SOME)
def test_any_family_samples_what_the_same_seed_samples(family):
    model = tiny.shared(family)
    module = model._module
    options = {"max_new_tokens": 4, "temperature": 0.9}
    result = lr.generate_lens(model, IDS, seed=5, **options)
    torch.manual_seed(5)
    assert ids_of(result) == written(module, IDS, do_sample=True, **options)


def test_numbers_of_numpy_are_numbers(llama):
    options = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "seed": np.int32(1)}
    result = lr.generate_lens(llama, "one", **options)
    assert (
        result.responses
        == lr.generate_lens(llama, "one", max_new_tokens=3, temperature=0.5, seed=1).responses
    )


def test_each_batch_has_a_seed_of_its_own(llama, monkeypatch):
    """Or all batches would be sampled with the same random numbers."""
    monkeypatch.setattr(generation_batches, "MAX_CACHED", 20)
    result = lr.generate_lens(llama, ["one prompt"] * 3, max_new_tokens=8, temperature=2.0, seed=0)
    assert len({response.text for response in result.responses}) > 1


def test_without_a_seed_torchs_generator_is_used_and_with_one_it_is_left_alone(llama):
    lr.generate_lens(
        llama, "one", max_new_tokens=2, do_sample=True
    )  # what is examined once may use the generator
    torch.manual_seed(5)
    first = ids_of(lr.generate_lens(llama, "one", max_new_tokens=NEW, do_sample=True))
    torch.manual_seed(5)
    lr.generate_lens(llama, "one", max_new_tokens=NEW, do_sample=True, seed=17)
    assert ids_of(lr.generate_lens(llama, "one", max_new_tokens=NEW, do_sample=True)) == first


def test_the_probabilities_of_what_was_sampled_are_the_models_and_the_samplers(llama):
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 5, "repetition_penalty": 1.3}
    options = dict(settings)
    options["sample_top_k"] = options.pop("top_k")
    penalty = {"repetition_penalty": options.pop("repetition_penalty")}
    result = lr.generate_lens(
        llama, "one prompt", max_new_tokens=NEW, seed=3, generation_config=penalty, **options
    )
    ids = torch.tensor([llama.tokenizer("one prompt").input_ids])
    torch.manual_seed(3)
    out = llama._module.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, output_scores=True, output_logits=True,
        return_dict_in_generate=True, **settings,
    )  # fmt: skip
    new = out.sequences[0, ids.shape[1] :]
    assert ids_of(result) == new.tolist()
    for step, token in enumerate(new):
        for scores, found in (
            (out.logits, result.tokens.next_logprob),
            (out.scores, result.tokens.sampler_logprob),
        ):
            assert scores[step][0].log_softmax(-1)[token] == pytest.approx(
                float(found[step]), abs=1e-4
            )
    assert (result.tokens.sampler_logprob != result.tokens.next_logprob).all()
    assert (
        result.tokens.next_id != result.final_ids
    ).any()  # sampled, and explained by its probability


def test_the_prompt_is_read_in_the_same_run(llama):
    module, prompt = llama._module, llama.tokenizer("one prompt, and more").input_ids
    calls = []
    hook = module.register_forward_hook(lambda _m, _a, out: calls.append(out.logits.shape[1]))
    result = lr.generate_lens(
        llama, "one prompt, and more", max_new_tokens=4, do_sample=False, include_prompt=True
    )
    hook.remove()
    assert calls[-4:] == [len(prompt), 1, 1, 1]
    assert result.tokens.generated.tolist() == [False] * (len(prompt) - 1) + [True] * 4
    assert np.isnan(result.tokens.next_logprob).tolist() == (~result.tokens.generated).tolist()
    after = lens_of_the_whole(llama, prompt, ids_of(result), 0)
    assert (result.tokens.next_id[:-1] == after.tokens.next_id[:-1]).all()
    everything = partial(lens_of_the_whole, llama, prompt, ids_of(result), 0, top_k=VOCABULARY)
    names = [name for name in LENS if not name.startswith("next_")]
    same(result, after, names, everything=everything)
    np.testing.assert_allclose(result.next_logprobs[:, :-1], after.next_logprobs[:, :-1], atol=2e-4)


def test_each_step_is_one_cached_forward_and_one_product(llama, monkeypatch):
    lr.generate_lens(llama, "one prompt", max_new_tokens=2)  # examined once, not in each run
    lengths, rows = [], []
    hook = llama._module.model.layers[0].register_forward_hook(
        lambda _m, args, _o: lengths.append(args[0].shape[1])
    )
    lr.anatomy(llama)  # again, since the model has a new hook
    lengths.clear()
    monkeypatch.setattr(LensHead, "tiles", counting(LensHead.tiles, rows))
    result = lr.generate_lens(llama, "one prompt", max_new_tokens=NEW, do_sample=False)
    hook.remove()
    assert lengths == [len(llama.tokenizer("one prompt").input_ids)] + [1] * (NEW - 1)
    assert rows == [len(result.sites)] * NEW


def counting(tiles, rows):
    def counted(head, x, apply_norm=True):
        rows.append(len(x))
        return tiles(head, x, apply_norm)

    return counted


def test_components_and_heads_add_up_at_every_step(llama):
    names = ("embed", "attn_out", "head_out", "resid_mid", "mlp_out", "resid_post")
    result = lr.generate_lens(
        llama, "one prompt", max_new_tokens=4, do_sample=False, components=names
    )
    assert result.certificate.max_block_error < 1e-5
    assert result.certificate.max_head_error < 1e-5
    prompt = llama.tokenizer("one prompt").input_ids
    after = lens_of_the_whole(llama, prompt, ids_of(result), len(prompt) - 1, components=names)
    assert result.sites == after.sites
    same(result, after, ["top_logprobs", "entropy", "kl_to_final"], atol=1e-3)


def test_some_layers_alone_are_certified_too(llama):
    result = lr.generate_lens(llama, "one", max_new_tokens=3, layers=[0, 2], track=None, top_k=1)
    assert [site.layer for site in result.sites] == [0, 2]
    assert result.certificate.passed
    assert result.top_ids.shape == (2, 3, 1)


def test_an_adapted_model_writes_its_own_text():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.llama(), config).eval()
    result = lr.generate_lens(
        lr.load(adapted), IDS, max_new_tokens=NEW, do_sample=False, include_prompt=True
    )
    assert ids_of(result) == written(adapted, IDS, max_new_tokens=NEW, do_sample=False)


def test_without_a_cache_the_newest_token_is_read(llama):
    cached = lr.generate_lens(llama, "one prompt", max_new_tokens=4, do_sample=False)
    without = lr.generate_lens(
        llama,
        "one prompt",
        max_new_tokens=4,
        do_sample=False,
        generation_config={"use_cache": False},
    )
    assert without.provenance["generation"]["use_cache"] is False
    everything = partial(
        lr.generate_lens,
        llama,
        "one prompt",
        max_new_tokens=4,
        do_sample=False,
        top_k=VOCABULARY,
    )
    same(without, cached, everything=everything)


# -- batches and ends --------------------------------------------------

PROMPTS = ["one prompt", "another, longer one, of more words", "two", "and the fourth of them"]


def test_several_prompts_write_and_read_what_each_does_alone(llama):
    together = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=NEW, do_sample=False, targets=[[260], [261], [262], [263]]
    )
    assert len(together) == len(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        run_alone = partial(
            lr.generate_lens,
            llama,
            prompt,
            max_new_tokens=NEW,
            do_sample=False,
            targets=[260 + number],
        )
        alone = run_alone()
        assert together[number].prompts == alone.prompts
        assert together[number].responses == alone.responses
        assert (together[number].tokens.position == alone.tokens.position).all()
        assert (together[number].tokens.id == alone.tokens.id).all()
        assert_same_as(together[number], run_alone, atol=2e-4)


@pytest.mark.slow
def test_real_prompts_of_different_lengths_are_as_alone(smollm2):
    prompts = ["The capital of France is", "Two", "Once upon a time there was a"]
    together = lr.generate_lens(smollm2, prompts, max_new_tokens=5, do_sample=False)
    for number, prompt in enumerate(prompts):
        alone = lr.generate_lens(smollm2, prompt, max_new_tokens=5, do_sample=False)
        assert together[number].responses == alone.responses
        np.testing.assert_allclose(together[number].top_logprobs, alone.top_logprobs, atol=5e-3)


@pytest.mark.filterwarnings("ignore:Unfeasible length")
@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.5}, {"min_length": 20, "eos_token_id": 248}]
)
def test_a_setting_that_would_see_the_padding_keeps_lengths_apart(llama, penalty):
    options = {"max_new_tokens": NEW, "do_sample": False, "generation_config": penalty}
    together = lr.generate_lens(llama, PROMPTS, **options)
    for number, prompt in enumerate(PROMPTS):
        assert ids_of(together[number]) == ids_of(lr.generate_lens(llama, prompt, **options))


def test_more_prompts_than_a_batch_holds_come_back_in_order(llama, monkeypatch):
    monkeypatch.setattr(generation_batches, "MAX_CACHED", 3 * (20 + NEW))
    prompts = PROMPTS * 3
    result = lr.generate_lens(llama, prompts, max_new_tokens=NEW, do_sample=False)
    assert [r.text for r in result.responses] == [r.text for r in result.responses[:4]] * 3
    assert np.unique(result.tokens.prompt).tolist() == list(range(12))


@pytest.mark.parametrize("pad", ["eos", "written"])
@pytest.mark.parametrize("step", range(NEW))
def test_a_row_ends_at_its_first_eos_wherever_that_is(llama, step, pad):
    """Also where the padding is EOS itself, or an id that the model really wrote before."""
    free = {
        prompt: ids_of(lr.generate_lens(llama, prompt, max_new_tokens=NEW, do_sample=False))
        for prompt in PROMPTS
    }
    eos = free[PROMPTS[1]][step]
    ends = {"eos_token_id": eos, "pad_token_id": eos if pad == "eos" else free[PROMPTS[0]][0]}
    result = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=NEW, do_sample=False, generation_config=ends
    )
    for number, prompt in enumerate(PROMPTS):
        ids = free[prompt]
        expected = ids[: ids.index(eos) + 1] if eos in ids else ids
        assert ids_of(result[number]) == expected
        assert result.responses[number].finish == ("eos" if eos in ids else "length")
        alone = written(
            llama._module,
            llama.tokenizer(prompt).input_ids,
            max_new_tokens=NEW,
            do_sample=False,
            **ends,
        )
        assert alone == expected


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3])  # the others: tests/full
def test_a_stop_string_ends_a_row_wherever_it_is(smollm2, step):
    prompt, options = "1, 2, 3,", {"max_new_tokens": NEW, "do_sample": False}
    free = ids_of(lr.generate_lens(smollm2, prompt, **options))
    stop = smollm2.tokenizer.decode(free[step])
    ids = smollm2.tokenizer(prompt).input_ids
    expected = written(
        smollm2._module, ids, stop_strings=[stop], tokenizer=smollm2.tokenizer, **options
    )
    result = lr.generate_lens(smollm2, [prompt, "The capital of France is"], stop=stop, **options)
    assert ids_of(result[0]) == expected
    assert result.responses[0].finish == "stop"
    assert result.responses[0].text.endswith(stop)
    assert "stop" not in lr.generate_lens(smollm2, prompt, **options).responses[0].finish


def test_one_token_is_enough(llama):
    result = lr.generate_lens(llama, "one prompt", max_new_tokens=1, do_sample=False)
    assert len(result.tokens) == 1
    assert result.timings["decode_per_token_s"] is None
    assert result.tokens.generated.all()
    assert result.responses[0].finish == "length"


def test_a_chat_goes_through_the_template(llama):
    chat = [{"role": "user", "content": "one"}]
    ids = llama.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    result = lr.generate_lens(llama, chat, max_new_tokens=3, do_sample=False)
    assert result.tokens.position.tolist() == [len(ids) - 1, len(ids), len(ids) + 1]
    assert ids_of(result) == written(llama._module, ids, max_new_tokens=3, do_sample=False)


# -- as it happens -----------------------------------------------------


def test_on_step_gives_each_token_of_each_running_prompt_once(llama):
    eos = ids_of(lr.generate_lens(llama, PROMPTS[1], max_new_tokens=NEW, do_sample=False))[2]
    parts = []
    options = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "targets": [260],
        "generation_config": {"eos_token_id": eos},
    }
    result = lr.generate_lens(llama, PROMPTS, on_step=parts.append, include_prompt=True, **options)
    generated = np.flatnonzero(result.tokens.generated)
    assert len(parts) == len(generated)
    by_place = {(part.prompts[0], int(part.tokens.position[0])): part for part in parts}
    for token in generated:
        place = result.prompts[result.tokens.prompt[token]], int(result.tokens.position[token])
        part = by_place[place]
        assert part.certificate.passed
        assert part.provenance["prompt"] == result.tokens.prompt[token]
        assert part.tokens.next_id[0] == result.tokens.next_id[token]
        assert part.text(part.tokens.next_id[0]) == result.text(result.tokens.next_id[token])
        for name in ("top_logprobs", "kl_to_final", "target_logprobs", "next_ranks"):
            np.testing.assert_array_equal(
                getattr(part, name)[:, 0], getattr(result, name)[:, token], err_msg=name
            )
    order = [
        int(part.tokens.position[0]) - len(llama.tokenizer(part.prompts[0]).input_ids)
        for part in parts
    ]
    assert order == sorted(order)  # step after step, not prompt after prompt


def test_on_step_stands_outside_of_the_run(llama):
    """Its tensors are ordinary ones, the model may be called, another may be examined; a recipe on this one may not."""
    other, seen = lr.load(tiny.llama()), []

    def look(part):
        assert not torch.ones(1).is_inference()
        llama._module(torch.tensor([[5, 6]]))
        seen.append(lr.attribution(other, [[7, 8, 9]], 5).certificate.passed)

    expected = lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False)
    same(
        lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False, on_step=look),
        expected,
    )
    assert seen == [True] * 3
    for recipe in (lr.logit_lens, lr.decode_vectors):
        with pytest.raises(lr.LensError, match="in the middle of a run"):
            lr.generate_lens(
                llama,
                "one",
                max_new_tokens=3,
                on_step=lambda part, recipe=recipe: recipe(llama, "one"),
            )
    same(lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False), expected)


def test_a_model_is_examined_rightly_in_inference_mode():
    model = lr.load(tiny.llama())
    with torch.inference_mode():
        assert lr.attribution(model, [[7, 8, 9]], 5).certificate.passed


def test_an_error_in_on_step_is_the_callers_and_the_model_stays_usable(llama):
    def fail(part):
        raise RuntimeError("of the caller")

    before = lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False)
    with pytest.raises(RuntimeError, match="of the caller"):
        lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False, on_step=fail)
    same(lr.generate_lens(llama, "one prompt", max_new_tokens=3, do_sample=False), before)


def interrupting(model, at):
    """Ctrl-C while the model runs its forward number `at`, by the signal itself."""
    seen = []

    def hook(_module, _args, _out):
        seen.append(1)
        if len(seen) == at:
            signal.raise_signal(signal.SIGINT)

    handle = model._module.model.layers[2].register_forward_hook(hook)
    seen += [1] * at  # silent while the model is examined again, since it has a new hook
    lr.generate_lens(model, PROMPTS, max_new_tokens=1)
    seen.clear()
    return handle


@pytest.mark.parametrize("step", [2, 4])
def test_ctrl_c_keeps_what_was_computed(llama, step):
    whole = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    hook = interrupting(llama, step)
    part = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    hook.remove()
    assert [response.finish for response in part.responses] == ["interrupted"] * len(PROMPTS)
    for number in range(len(PROMPTS)):
        assert ids_of(part[number]) == ids_of(whole[number])[: step - 1]
    assert part.certificate.passed
    assert str(part)
    assert part.summary()
    again = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    same(again, whole)
    assert lr.logit_lens(llama, PROMPTS).certificate.passed


def test_ctrl_c_before_the_first_token_is_ctrl_c(llama):
    lr.generate_lens(llama, "one prompt", max_new_tokens=2)
    hook = interrupting(llama, 1)
    with pytest.raises(KeyboardInterrupt):
        lr.generate_lens(llama, "one prompt", max_new_tokens=NEW)
    hook.remove()
    assert lr.generate_lens(llama, "one prompt", max_new_tokens=2).certificate.passed


def test_ctrl_c_in_the_second_batch_leaves_the_first_whole(llama, monkeypatch, tmp_path):
    monkeypatch.setattr(generation_batches, "MAX_CACHED", 2 * (20 + NEW))
    whole = lr.generate_lens(llama, PROMPTS * 2, max_new_tokens=NEW, do_sample=False)
    hook = interrupting(llama, NEW + 3)
    part = lr.generate_lens(llama, PROMPTS * 2, max_new_tokens=NEW, do_sample=False)
    hook.remove()
    finishes = [response.finish for response in part.responses]
    assert set(finishes) == {"length", "interrupted"}
    left = part.provenance["not_begun"]
    assert len(part) == len(whole) - len(left)
    begun = [number for number in range(len(whole)) if number not in left]
    for one, number in zip(part, begun, strict=True):
        assert one.prompts == whole[number].prompts
        assert ids_of(one) == ids_of(whole[number])[: len(one.tokens)]
    part.save(tmp_path / "part.json")
    assert lr.LensResult.load(tmp_path / "part.json").responses == part.responses


MOMENTS = [
    "as_arrays",
    "fill_buffers",
    "readout",
    "synchronized_time",
    "certificate_of",
    "token_texts",
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_keeps_the_batches_that_are_done(llama, monkeypatch, moment):
    """Between batches, in the lens, and while the result is put together."""
    monkeypatch.setattr(generation_batches, "MAX_CACHED", 2 * (20 + NEW))
    whole = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    home = next(module for module in (generation, decoding, transcript) if hasattr(module, moment))
    real, calls = getattr(home, moment), []
    late = {"fill_buffers": NEW + 1, "readout": NEW + 1, "synchronized_time": 3 * NEW + 2}.get(
        moment, 1 if home is transcript else 2
    )

    def interrupting(*args, **kwargs):
        calls.append(1)
        if len(calls) == late:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(home, moment, interrupting)
    part = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    assert len(calls) >= late
    assert part.certificate.passed
    left = part.provenance.get("not_begun", [])
    assert len(part) + len(left) == len(PROMPTS)
    begun = [number for number in range(len(PROMPTS)) if number not in left]
    for one, number in zip(part, begun, strict=True):
        assert ids_of(one) == ids_of(whole[number])[: len(one.tokens)]
    assert part.timings["output_tokens"] == len(part.tokens) > 0


def test_ctrl_c_before_anything_was_kept_is_ctrl_c(llama, monkeypatch):
    def interrupting(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "fill_buffers", interrupting)
    with pytest.raises(KeyboardInterrupt):
        lr.generate_lens(llama, "one prompt", max_new_tokens=1)


def test_more_steps_than_there_was_room_for_at_first(llama, monkeypatch):
    whole = lr.generate_lens(llama, PROMPTS, max_new_tokens=9, do_sample=False)
    monkeypatch.setattr(decoding, "INITIAL_STEPS", 1)
    same(
        lr.generate_lens(llama, PROMPTS, max_new_tokens=9, do_sample=False),
        whole,
        [*LENS, "tracked_logprobs"],
    )


def test_timings_add_up(llama):
    result = lr.generate_lens(llama, PROMPTS, max_new_tokens=NEW, do_sample=False)
    times = result.timings
    assert times["output_tokens"] == len(result.tokens)
    assert times["input_tokens"] == sum(
        len(llama.tokenizer(prompt).input_ids) for prompt in PROMPTS
    )
    seconds = {
        name: value for name, value in times.items() if name.endswith("_s") and value is not None
    }
    assert set(seconds) | {"load_s"} == {
        "load_s", "tokenise_s", "prefill_s", "decode_s", "decode_per_token_s", "lens_s", "text_s"
    }  # fmt: skip
    assert all(value >= 0 for value in seconds.values())
    total = times["prefill_s"] + times["decode_s"] + times["lens_s"]
    assert times["tokens_per_second"] == pytest.approx(times["output_tokens"] / total)
    assert total <= result.provenance["seconds"]
    later = times["output_tokens"] - len(PROMPTS)
    assert times["decode_per_token_s"] == pytest.approx(times["decode_s"] / later)


def test_a_model_that_load_built_knows_how_long_that_took(smollm2):
    assert lr.generate_lens(smollm2, "One", max_new_tokens=1).timings["load_s"] > 0
    assert lr.logit_lens(smollm2, "One").timings == {}


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_generation_comes_back_from_its_file(llama, tmp_path, suffix):
    result = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=3, include_prompt=True, do_sample=False
    )
    result.save(tmp_path / f"r{suffix}")
    again = lr.LensResult.load(tmp_path / f"r{suffix}")
    assert again.responses == result.responses
    assert again.timings == result.timings
    for name in ("next_logprob", "sampler_logprob", "generated", "next_id"):
        np.testing.assert_array_equal(getattr(again.tokens, name), getattr(result.tokens, name))
    assert str(lr.settled_layers(again)) == str(lr.settled_layers(result))


def test_a_frame_says_what_model_and_sampler_gave_to_what_was_written(llama):
    result = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=3, temperature=0.7, seed=0, include_prompt=True
    )
    frame = result.to_frame()
    last = frame[(frame.role == "next") & (frame.layer == 3) & frame.generated]
    assert last.id.tolist() == result.tokens.next_id[result.tokens.generated].tolist()
    np.testing.assert_allclose(
        last.logprob, last.next_logprob, atol=1e-4
    )  # the last layer's lens is the model
    np.testing.assert_array_equal(
        last.sampler_logprob, result.tokens.sampler_logprob[result.tokens.generated]
    )
    assert "generated" not in lr.logit_lens(llama, "one").to_frame()


def test_when_each_token_was_decided(llama):
    result = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=NEW, temperature=1.5, seed=1, include_prompt=True
    )
    found = lr.settled_layers(result)
    assert [step.token for step in found] == np.flatnonzero(result.tokens.generated).tolist()
    for step in found:
        ids = result.top_ids[:, step.token, 0]
        answer = result.final_ids[step.token]
        first = next((s for s in range(len(ids)) if (ids[s:] == answer).all()), None)
        assert step.layer == first
        assert step.text == result.text(answer)
        tops = result.top_logprobs[step.site, step.token]
        assert step.margin == pytest.approx(float(tops[0] - tops[1]))
    sampled = lr.settled_layers(result, "next")
    for step in sampled:
        mine = result.tokens.next_id[step.token] == result.final_ids[step.token]
        assert (step.layer is not None) == mine
        assert np.isnan(step.margin) != mine
    with pytest.raises(ValueError, match="there is result"):
        lr.settled_layers(result, " Paris")


# -- settings ----------------------------------------------------------


@pytest.fixture
def configured():
    """A model whose checkpoint says how it is to generate."""
    module = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    module.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        eos_token_id=[2, 5],
        max_length=7,
        pad_token_id=0,
    )
    return lr.load(module, tokenizer=tiny.tiny_tokenizer())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50}),
        ({"temperature": 0.3}, {"temperature": 0.3, "top_p": 0.9}),
        (
            {"generation_config": {"temperature": 0.3, "min_p": 0.1}},
            {"temperature": 0.3, "min_p": 0.1, "top_p": 0.9},
        ),
        ({"generation_config": GenerationConfig(top_k=3), "sample_top_k": 4}, {"top_k": 4}),
        ({"generation_config": GenerationConfig(do_sample=False)}, {"do_sample": False}),
        (
            {"do_sample": False, "stop": "x"},
            {"do_sample": False, "stop": ["x"], "eos_token_id": [2, 5]},
        ),
    ],
)
def test_settings_come_from_the_caller_then_the_checkpoint(
    configured, monkeypatch, options, expected
):
    seen = []
    loop = RecordedLoop.run

    def noting(self, *args, **kwargs):
        seen.append(kwargs["generation_config"])
        return loop(self, *args, **kwargs)

    monkeypatch.setattr(RecordedLoop, "run", noting)
    result = lr.generate_lens(configured, "one prompt", max_new_tokens=20, seed=0, **options)
    used = result.provenance["generation"]
    assert expected.items() <= used.items()
    assert len(result.tokens) == 20 or result.responses[0].finish in (
        "eos",
        "stop",
    )  # the checkpoint's 7 is no bound
    for name, value in used.items():  # what is said is what `generate` itself worked with
        if name not in ("stop", "seed"):
            assert getattr(seen[0], name) == value, name
    if not used["do_sample"]:
        assert "temperature" not in used


def test_a_sampler_setting_alone_asks_for_sampling(llama):
    assert (
        lr.generate_lens(llama, "one", max_new_tokens=1).provenance["generation"]["do_sample"]
        is False
    )
    assert (
        lr.generate_lens(llama, "one", max_new_tokens=1, top_p=0.5).provenance["generation"][
            "do_sample"
        ]
        is True
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number from 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ({"temperature": 0}, "do_sample=False"),
        ({"temperature": -1.0}, "above 0"),
        ({"temperature": float("nan")}, "above 0"),
        ({"top_p": 1.5}, "at most 1"),
        ({"sample_top_k": -1}, "sample_top_k=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"do_sample": "yes"}, "do_sample='yes'"),
        ({"do_sample": False, "temperature": 0.5}, "no use for temperature=0.5"),
        ({"do_sample": False, "sample_top_k": 5, "top_p": 0.9}, "top_p=0.9, sample_top_k=5"),
        ({"stop": ""}, "none of them empty"),
        ({"stop": [3]}, "list of strings"),
        ({"generation_config": {"num_beams": 3}}, "num_beams=3"),
        (
            {"generation_config": {"num_return_sequences": 2, "do_sample": True}},
            "num_return_sequences=2",
        ),
        ({"generation_config": {"guidance_scale": 2.0}}, "guidance_scale"),
        ({"generation_config": {"prompt_lookup_num_tokens": 3}}, "one text at a time"),
        ({"generation_config": {"heat": 3}}, "no setting 'heat'"),
        ({"generation_config": {"to_dict": 3}}, "no setting 'to_dict'"),
        (
            {"generation_config": {"penalty_alpha": 0.6, "top_k": 4}},
            r"penalty_alpha=0.6.*'penalty_alpha': 0",
        ),
        ({"do_sample": 0, "temperature": 0.5}, "no use for temperature=0.5"),
        ({"do_sample": np.bool_(False), "temperature": 0.5}, "no use for temperature=0.5"),
        ({"generation_config": "greedy"}, "received str"),
        ({"generation_config": {"do_sample": True, "temperature": -2.0}}, "temperature=-2.0"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_bad_settings_are_one_clear_sentence(llama, options, says):
    with pytest.raises(ValueError, match=says) as caught:
        lr.generate_lens(llama, "one prompt", **{"max_new_tokens": 2, **options})
    assert "\n" not in str(caught.value)


def test_a_prompt_that_fills_the_context_leaves_no_room():
    model = lr.load(tiny.gpt2())
    prompt = [7] * context_length(model)
    with pytest.raises(ValueError, match=r"room for 0 new tokens.*shorten it"):
        lr.generate_lens(model, [prompt], max_new_tokens=1)
    with pytest.raises(ValueError, match="max_new_tokens=500 asks for more"):
        lr.generate_lens(model, [prompt[:7]], max_new_tokens=500)
    assert len(lr.generate_lens(model, [prompt[:-1]], max_new_tokens=1).tokens) == 1


def test_a_model_that_cannot_generate_says_so():
    module = tiny.llama()
    module.can_generate = lambda: False
    with pytest.raises(lr.LensError, match=r"cannot generate.*logit_lens"):
        lr.generate_lens(lr.load(module), IDS, max_new_tokens=1)


def test_stop_strings_need_a_tokenizer():
    with pytest.raises(ValueError, match="tokenizer"):
        lr.generate_lens(lr.load(tiny.llama()), IDS, max_new_tokens=1, stop="x")


def test_a_lens_that_is_not_the_models_own_is_refused(llama, monkeypatch):
    """Also step by step: no part is handed on uncertified."""
    normed = LensHead.normed

    def without_norm(head, rows, apply_norm=True):
        return normed(head, rows, False)

    monkeypatch.setattr(LensHead, "normed", without_norm)
    parts = []
    with pytest.raises(lr.LensError, match="NOT CERTIFIED"):
        lr.generate_lens(llama, "one prompt", max_new_tokens=3, on_step=parts.append)
    assert not parts


# -- on a server -------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False, "targets": [260]},
        {"temperature": 0.9, "seed": 3, "include_prompt": True, "track": 3},
        {"do_sample": False, "components": ("attn_out", "head_out", "resid_post")},
    ],
    ids=["greedy", "sampled", "components"],
)
def test_a_server_without_this_package_writes_and_reads_the_same(llama, monkeypatch, options):
    here = lr.generate_lens(llama, "one prompt", max_new_tokens=4, **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    parts = []
    there = lr.generate_lens(
        llama, "one prompt", max_new_tokens=4, remote="local", on_step=parts.append, **options
    )
    assert there.responses == here.responses
    assert len(parts) == 4  # after the result has arrived
    assert there.timings["output_tokens"] == 4
    assert_same_lens(there, here, atol=2e-4)


@pytest.mark.slow
def test_stop_strings_and_batches_on_a_server(smollm2, monkeypatch):
    options = {"max_new_tokens": NEW, "do_sample": False, "stop": ["5"]}
    prompts = ["1, 2, 3,", "The capital of France is"]
    here = lr.generate_lens(smollm2, prompts, **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.generate_lens(smollm2, prompts, remote="local", **options)
    assert there.responses == here.responses
    assert [response.finish for response in there.responses] == ["stop", "length"]
