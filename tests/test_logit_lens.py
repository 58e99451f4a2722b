"""One call on a real model and on small ones: the right numbers, the same alone and together, or a refusal."""

from __future__ import annotations

import dataclasses
from functools import partial

import nnsight
import numpy as np
import oracle
import pytest
import tiny
import torch
from agreement import (
    assert_ranks,
    assert_same_as,
    assert_same_lens,
    assert_same_tokens,
    assert_top_ids,
)
from transformers import BatchEncoding

import lens_recipes as lr
from lens_recipes.models.structure.known import known_model
from lens_recipes.recipes import logit_lens as _logit_lens
from lens_recipes.run import batches
from lens_recipes.run.request.request import Request
from lens_recipes.trace import operations, read_step
from lens_recipes.trace.lens_head import LensHead

FRANCE = "The capital of France is"


def assert_same(one, other, atol=1e-4):
    """Two results say the same."""
    assert_same_tokens(one, other)
    assert_same_lens(one, other, atol=atol, rtol=1e-4)


def ids_of(model, text):
    return model.tokenizer(text).input_ids


# -- the real model ----------------------------------------------------


def test_smollm2_comes_to_paris(smollm2):
    result = lr.logit_lens(smollm2, FRANCE, targets=" Paris")
    assert result.certificate.passed
    assert result.mark == ""
    assert len(result.sites) == 30
    assert result.sites[0] == lr.Site(0, "resid_post", None)
    assert result.text(result.top_ids[-1, -1, 0]) == " Paris"
    assert np.exp(result.target_logprobs[-1, -1, 0]) > 0.5
    assert result.target_ranks[-1, -1, 0] == 0
    assert result.target_ranks[0, -1, 0] > 0
    assert result.tokens.text == ["The", " capital", " of", " France", " is"]
    assert result.tokens.next_id.tolist() == [*ids_of(smollm2, FRANCE)[1:], -1]
    assert not result.tokens.generated.any()
    assert result.provenance["recipe"] == "logit_lens"
    assert result.provenance["arguments"]["targets"] == " Paris"


def test_every_layer_is_hugging_faces_hidden_state_through_norm_and_head(smollm2):
    ids = ids_of(smollm2, FRANCE)
    result = lr.logit_lens(smollm2, FRANCE, targets=" Paris")
    module = smollm2._module
    with torch.inference_mode():
        out = module(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        hidden = out.hidden_states[1:]
        normed = [module.model.norm(h) for h in hidden[:-1]] + [
            hidden[-1]
        ]  # the last one comes normed
        logits = torch.stack([module.lm_head(h)[0] for h in normed])
    expected = oracle.metrics(logits, out.logits[0], k=5)
    assert_top_ids(result.top_ids, expected["logprobs"], 2e-4)
    np.testing.assert_allclose(result.top_logprobs, expected["top_logprobs"], atol=1e-4)
    np.testing.assert_allclose(result.entropy, expected["entropy"], atol=1e-4)
    np.testing.assert_allclose(result.kl_to_final, expected["kl_to_final"], atol=1e-4)
    target = int(result.target_ids[0, 0])
    np.testing.assert_allclose(
        result.target_logprobs[..., 0], expected["logprobs"][..., target], atol=1e-4, rtol=1e-5
    )
    np.testing.assert_allclose(result.target_logits[..., 0], logits[..., target], atol=1e-3)
    assert_ranks(result.target_ranks[..., 0], expected["logprobs"], target, 2e-4)
    at = expected["logprobs"][:, np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(result.next_logprobs[:, :-1], at, atol=1e-4, rtol=1e-5)
    assert np.isnan(result.next_logprobs[:, -1]).all()
    assert (result.next_ranks[:, -1] == -1).all()


def test_prompts_of_different_lengths_give_what_each_gives_alone(smollm2):
    prompts = [FRANCE, "One two three four five six seven", "Hello", "def add(a, b):\n    return"]
    targets = [" Paris", " eight", "!", " a"]
    together = lr.logit_lens(
        smollm2, prompts, targets=[[t] for t in targets], positions=slice(-3, None)
    )
    assert len(together) == len(prompts)
    for number, prompt in enumerate(prompts):
        alone = partial(
            lr.logit_lens, smollm2, prompt, targets=targets[number], positions=slice(-3, None)
        )
        assert_same_as(together[number], alone, atol=1e-4, rtol=1e-4)


# -- prompts -----------------------------------------------------------


def test_every_sort_of_prompt_gives_the_numbers_of_its_ids(llama):
    texts = ["The capital of France", "The answer of a model"]
    ids = [ids_of(llama, text) for text in texts]
    width = max(map(len, ids))
    padded = llama.tokenizer(texts, padding=True, return_tensors="pt")
    assert isinstance(padded, BatchEncoding)
    alone = [lr.logit_lens(llama, row) for row in ids]
    several = [
        texts,
        tuple(texts),
        ids,
        [torch.tensor(row) for row in ids],
        padded,
        llama.tokenizer(texts),
    ]
    for prompts in several:
        together = lr.logit_lens(llama, prompts)
        for number in (0, 1):
            assert_same(together[number], alone[number])
    assert_same(lr.logit_lens(llama, texts[0]), alone[0])
    assert_same(lr.logit_lens(llama, torch.tensor(ids[0])), alone[0])
    rectangle = [row[:3] for row in ids]
    assert width > 3
    expected = lr.logit_lens(llama, rectangle)
    assert_same(lr.logit_lens(llama, torch.tensor(rectangle)), expected)
    assert_same(lr.logit_lens(llama, np.array(rectangle)), expected)


def test_a_chat_gives_the_numbers_of_its_template(llama):
    chat = [{"role": "user", "content": "One two"}]
    text = llama.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<s>user: One two</s>\nassistant:"
    expected = lr.logit_lens(llama, ids_of(llama, text))
    assert_same(lr.logit_lens(llama, chat), expected)
    both = lr.logit_lens(llama, [chat, [*chat, {"role": "assistant", "content": "three"}]])
    assert len(both) == 2
    assert_same(both[0], expected)


def test_forty_prompts_in_several_batches_come_back_in_order(llama):
    generator = np.random.default_rng(0)
    prompts = [
        generator.integers(6, 290, size=n).tolist() for n in generator.integers(1, 12, size=40)
    ]
    options = {"targets": [7, 50], "max_bytes": tiny.STRING_VOCAB * 4 * 40}
    sizes = [
        len(batch.inputs["input_ids"])
        for batch in lr.logit_lens.prepare(llama, prompts, **options).batches
    ]
    together = lr.logit_lens(llama, prompts, **options)
    assert len(sizes) > 5
    assert sum(sizes) == 40
    assert max(sizes) > 1
    assert len(together) == 40
    assert together.tokens.prompt.tolist() == [p for p, row in enumerate(prompts) for _ in row]
    assert together.tokens.id.tolist() == [i for row in prompts for i in row]
    for number in range(0, 40, 7):
        assert_same(together[number], lr.logit_lens(llama, prompts[number], targets=[7, 50]))


# -- padding -----------------------------------------------------------

HARMLESS = {"llama": True, "gpt2": True, "mamba": True, "rwkv": False, "recurrent_gemma": False}


@pytest.mark.filterwarnings("ignore:Module .* has a submodule named 'output'")
@pytest.mark.parametrize("family", HARMLESS)
def test_padding_is_found_harmless_or_not_and_batch_equals_single_either_way(family):
    model = lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())
    assert batches.padding_is_harmless(Request(model, [[7, 8]])) is HARMLESS[family]
    prompts = [tiny.random_ids(1, n, seed=n)[0].tolist() for n in (3, 11, 7, 3, 1)]
    together = lr.logit_lens(model, prompts, targets=[9])
    assert together.certificate.passed
    for number, prompt in enumerate(prompts):
        assert_same(together[number], lr.logit_lens(model, prompt, targets=[9]), atol=2e-4)


def test_without_a_tokenizer_prompts_are_run_in_groups_of_equal_length():
    model = lr.load(tiny.llama())
    prompts = [tiny.random_ids(1, n, seed=n)[0].tolist() for n in (4, 6, 4)]
    batches = lr.logit_lens.prepare(model, prompts).batches
    assert [tuple(batch.inputs["input_ids"].shape) for batch in batches] == [(2, 4), (1, 6)]
    together = lr.logit_lens(model, prompts)
    for number, prompt in enumerate(prompts):
        assert_same(together[number], lr.logit_lens(model, prompt))


# -- layers, positions, targets, tracked tokens ------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        (-1, [3]),
        (slice(1, None, 2), [1, 3]),
        (slice(None, None, -1), [0, 1, 2, 3]),
        ([3, 0], [0, 3]),  # in ascending order, so that "from layer X on" means something
        ([-1, 1, 1], [1, 3]),
        (range(2), [0, 1]),
        (np.array([0, -2]), [0, 2]),
        (torch.tensor([1]), [1]),
        (np.int64(2), [2]),
    ],
)
def test_layers_in_every_form_are_rows_of_the_whole(llama, layers, expected):
    whole = lr.logit_lens(llama, FRANCE, track=None)
    some = lr.logit_lens(llama, FRANCE, layers=layers, track=None)
    assert some.certificate.passed
    assert [site.layer for site in some.sites] == expected
    np.testing.assert_array_equal(some.top_ids, whole.top_ids[expected])
    np.testing.assert_allclose(some.entropy, whole.entropy[expected], atol=1e-5)
    np.testing.assert_allclose(some.kl_to_final, whole.kl_to_final[expected], atol=1e-5)


@pytest.mark.parametrize(
    "positions", [None, 0, -1, slice(1, 3), slice(-2, None), [0, 2], [-1, 0], range(2)]
)
def test_positions_in_every_form_are_columns_of_the_whole(llama, positions):
    prompts = [[7, 8, 9, 10, 11], [30, 20, 10], [7, 8, 9]]
    whole = lr.logit_lens(llama, prompts, track=None)
    some = lr.logit_lens(llama, prompts, positions=positions, track=None)
    wanted = [
        range(len(p))[positions] if isinstance(positions, slice) else positions for p in prompts
    ]
    wanted = [list(range(len(p))) if w is None else w for p, w in zip(prompts, wanted, strict=True)]
    wanted = [[w] if isinstance(w, int) else w for w in wanted]
    spots = [(p, i % len(row)) for p, row in enumerate(prompts) for i in wanted[p]]
    assert list(zip(some.tokens.prompt, some.tokens.position, strict=True)) == spots
    starts = np.cumsum([0, *map(len, prompts)])
    columns = [starts[p] + i for p, i in spots]
    np.testing.assert_array_equal(some.top_ids, whole.top_ids[:, columns])
    np.testing.assert_allclose(some.top_logprobs, whole.top_logprobs[:, columns], atol=1e-5)
    np.testing.assert_allclose(some.next_logprobs, whole.next_logprobs[:, columns], atol=1e-5)
    np.testing.assert_array_equal(some.tokens.next_id, whole.tokens.next_id[columns])


def test_each_prompt_can_have_its_own_targets(llama):
    prompts = [[7, 8, 9], [30, 20]]
    own = lr.logit_lens(llama, prompts, targets=[[11, " the"], [12, 13]])
    the = llama.tokenizer(" the").input_ids[0]
    assert own.target_ids.tolist() == [[11, the], [12, 13]]
    everywhere = lr.logit_lens(llama, prompts, targets=[11, the, 12, 13])
    assert everywhere.target_ids.tolist() == [[11, the, 12, 13]] * 2
    for prompt, columns in ((0, [0, 1]), (1, [2, 3])):
        here = own.tokens.prompt == prompt
        np.testing.assert_allclose(
            own.target_logprobs[:, here],
            everywhere.target_logprobs[:, here][..., columns],
            atol=1e-5,
        )
        np.testing.assert_array_equal(
            own.target_ranks[:, here], everywhere.target_ranks[:, here][..., columns]
        )


def test_track_top1_follows_every_top1_through_all_sites(llama):
    result = lr.logit_lens(llama, FRANCE, track="top1")
    for token in range(len(result.tokens)):
        kept = result.tracked_ids[token] >= 0
        assert set(result.tracked_ids[token, kept]) == set(result.top_ids[:, token, 0])
        assert np.isnan(result.tracked_logprobs[:, token, ~kept]).all()
        for m in np.flatnonzero(kept):
            is_top = result.top_ids[:, token, 0] == result.tracked_ids[token, m]
            np.testing.assert_allclose(
                result.tracked_logprobs[is_top, token, m],
                result.top_logprobs[is_top, token, 0],
                atol=1e-6,
            )


def test_track_a_number_follows_the_final_layers_top_tokens_and_none_follows_nothing(llama):
    result = lr.logit_lens(llama, FRANCE, track=3, top_k=3, layers=[0, 1, -1])
    np.testing.assert_array_equal(result.tracked_ids, result.top_ids[-1])
    np.testing.assert_allclose(result.tracked_logprobs[-1], result.top_logprobs[-1], atol=1e-6)
    nothing = lr.logit_lens(llama, FRANCE, track=None)
    assert nothing.tracked_ids.shape == (len(nothing.tokens), 0)
    assert nothing.tracked_logprobs.shape == (4, len(nothing.tokens), 0)


def test_top_k_may_be_the_whole_vocabulary_and_sums_to_one(llama):
    result = lr.logit_lens(llama, FRANCE, top_k=tiny.STRING_VOCAB)
    np.testing.assert_allclose(np.exp(result.top_logprobs).sum(-1), 1, atol=1e-5)


# -- how it is read ----------------------------------------------------


def test_the_raw_stream_is_marked_and_still_certified(llama):
    raw = lr.logit_lens(llama, FRANCE, apply_norm=False)
    assert raw.certificate.passed
    assert not raw.normed
    assert "RAW STREAM" in raw.mark
    module, ids = llama._module, torch.tensor([ids_of(llama, FRANCE)])
    streams = []
    handles = [
        b.register_forward_hook(lambda m, i, o: streams.append(o)) for b in module.model.layers
    ]
    with torch.inference_mode():
        final = module(ids).logits[0]
        logits = torch.stack([module.lm_head(stream)[0] for stream in streams])
    for handle in handles:
        handle.remove()
    expected = oracle.metrics(logits, final, k=5)
    assert_top_ids(raw.top_ids, expected["logprobs"], 1e-3)
    np.testing.assert_allclose(raw.top_logprobs, expected["top_logprobs"], atol=1e-4, rtol=1e-4)


def test_a_trace_is_no_part_of_the_result_so_two_calls_agree_to_the_bit(llama):
    one, other = lr.logit_lens(llama, FRANCE), lr.logit_lens(llama, FRANCE)
    np.testing.assert_array_equal(one.top_logprobs, other.top_logprobs)


def test_a_model_without_weights_is_not_dispatched_behind_the_users_back(tmp_path):
    model = lr.load(str(tiny.save(tiny.for_text("llama"), tmp_path)), remote=True)
    for _ in range(2):
        with pytest.raises(lr.LensError, match=r"no weights here .* remote=True"):
            lr.logit_lens(model, FRANCE, remote=False)
    assert not model.dispatched
    assert {p.device.type for p in model._module.parameters()} == {"meta"}


def test_a_bare_module_on_meta_is_refused_too():
    with torch.device("meta"):
        module = type(tiny.llama())(tiny.llama().config).eval()
    with pytest.raises(lr.LensError, match="meta device"):
        lr.logit_lens(lr.load(module), [7, 8])


def test_a_model_in_training_mode_is_refused(llama):
    llama._module.train()
    try:
        with pytest.raises(lr.LensError, match=r"model\.eval\(\)"):
            lr.logit_lens(llama, FRANCE)
    finally:
        llama._module.eval()


# -- a certificate that can fail ---------------------------------------


def changed(model, **changes):
    """Put a wrong anatomy in the place of the right one, for this model only."""
    known_model(model).anatomy = dataclasses.replace(lr.anatomy(model), **changes)


def assert_refused(model, cause, prompts=None):
    prompts = tiny.random_ids(batch=2, length=9) if prompts is None else prompts
    with pytest.raises(lr.LensError) as refusal:
        lr.logit_lens(model, prompts)
    message = str(refusal.value)
    assert "NOT CERTIFIED" in message
    assert "tolerance" in message
    assert "nats" in message
    assert "strict=False" in message
    assert cause in message
    kept = lr.logit_lens(model, prompts, strict=False)
    assert not kept.certificate.passed
    assert "NOT CERTIFIED" in kept.mark
    return kept


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "olmo2", "mamba", "cohere"])
def test_a_skipped_norm_is_refused(family):
    model = lr.load(tiny.FAMILIES[family]())
    norm = lr.anatomy(model).norm
    assert norm is not None
    changed(model, tail=[step for step in lr.anatomy(model).tail if str(step) != norm])
    assert_refused(
        model, "norm" if family != "gemma2" else "Likely cause"
    )  # its top-1 stays the same


def test_a_norm_applied_twice_is_refused():
    model = lr.load(tiny.llama())
    changed(model, tail=[lr.anatomy(model).tail[0], *lr.anatomy(model).tail])
    assert_refused(model, "Likely cause")


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "recurrent_gemma", "nanochat"])
def test_a_skipped_softcap_is_refused_although_the_order_is_right(family):
    model = lr.load(tiny.FAMILIES[family]())
    changed(
        model,
        tail=[
            step for step in lr.anatomy(model).tail if not isinstance(step, operations.Elementwise)
        ],
    )
    kept = assert_refused(model, "softcap")
    assert kept.certificate.top1_agreement == 1.0
    assert (kept.final_ranks[-1] == 0).all()


@pytest.mark.parametrize("family", ["cohere", "granite", "falcon_h1"])
def test_a_skipped_logit_scale_is_refused_although_the_order_is_right(family):
    model = lr.load(tiny.FAMILIES[family]())
    tail = lr.anatomy(model).tail
    assert isinstance(tail[-1], operations.Elementwise)
    changed(model, tail=tail[:-1])
    kept = assert_refused(model, "scale")
    assert kept.certificate.top1_agreement == 1.0


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_the_wrong_last_block_is_refused(family):
    model = lr.load(tiny.FAMILIES[family]())
    parts = lr.anatomy(model)
    changed(model, n_layers=parts.n_layers - 1, layers=parts.layers[:-1])
    assert_refused(
        model, "last block" if family != "gemma2" else "Likely cause"
    )  # its top-1 stays the same


def test_shifted_blocks_are_refused():
    """Each layer read from the block before it."""
    model = lr.load(tiny.llama())
    blocks = model._module.model.layers
    shifted = torch.nn.ModuleList([blocks[0], *blocks[:-1]])
    model._module.add_module("shifted", shifted)
    model = lr.load(model._module)
    changed(model, blocks="shifted", links=[None] * len(blocks))
    assert_refused(model, "Likely cause")


def test_batch_row_0_in_place_of_every_row_is_refused(monkeypatch):
    def row_0(output):
        return operations.first_of(output)[:1].expand_as(operations.first_of(output))

    model = lr.load(tiny.llama())
    monkeypatch.setattr(read_step, "first_of", row_0)
    assert lr.logit_lens(
        model, [7, 8, 9]
    ).certificate.passed  # right for one prompt, so two must show it
    kept = assert_refused(model, "Likely cause")
    assert kept.certificate.tokens == 18


def test_columns_that_are_off_by_one_are_refused(monkeypatch):
    """What forgetting the padding would do."""
    make_batches = _logit_lens.make_batches

    def shifted(*args, **options):
        batches, token_prompts = make_batches(*args, **options)
        places = batches[0].places
        shifted_places = places._replace(columns=(places.columns - 1).clamp(min=0))
        return [batches[0]._replace(places=shifted_places)], token_prompts

    monkeypatch.setattr(_logit_lens, "make_batches", shifted)
    assert_refused(lr.load(tiny.llama()), "Likely cause")


def test_a_raw_lens_with_a_skipped_norm_in_its_certificate_is_refused(monkeypatch):
    """apply_norm=False does not switch the check off."""
    tiles = LensHead.tiles

    def normless(head, rows, apply_norm=True):
        return tiles(head, rows, False)

    monkeypatch.setattr(LensHead, "tiles", normless)
    with pytest.raises(lr.LensError, match="NOT CERTIFIED"):
        lr.logit_lens(lr.load(tiny.llama()), [7, 8, 9], apply_norm=False)


@pytest.mark.parametrize("where", ["lm_head", "model.norm", "model.layers.1.mlp.up_proj"])
def test_nan_in_the_weights_is_one_clear_error(where):
    module = tiny.llama()
    with torch.no_grad():
        module.get_submodule(where).weight.view(-1)[0] = float("nan")
    model = lr.load(module)
    with pytest.raises(lr.LensError, match="NaN") as refusal:
        lr.logit_lens(model, [7, 8, 9])
    assert "\n" not in str(refusal.value)
    kept = lr.logit_lens(model, [7, 8, 9], strict=False)
    assert not kept.certificate.passed
    assert np.isnan(kept.certificate.max_logit_error)
    assert np.isnan(kept.entropy[-1]).any()


def test_a_model_in_bfloat16_is_certified_in_its_own_tolerance():
    model = lr.load(tiny.llama().to(torch.bfloat16))
    result = lr.logit_lens(model, tiny.random_ids(2, 9))
    assert result.certificate.dtype == "bfloat16"
    assert result.certificate.passed
    assert result.top_logprobs.dtype == np.float32


@pytest.mark.parametrize("change", [{"padding_side": "right"}, {"pad_token": None}])
def test_how_the_tokenizer_would_pad_does_not_matter(llama, change):
    tokenizer = tiny.tiny_tokenizer()
    for name, value in change.items():
        setattr(tokenizer, name, value)
    model = lr.load(llama._module, tokenizer=tokenizer)
    prompts = ["one", "a longer prompt, with more words"]
    together = lr.logit_lens(model, prompts)
    for number, prompt in enumerate(prompts):
        assert_same(together[number], lr.logit_lens(llama, prompt))
    written = lr.generate_lens(model, prompts, max_new_tokens=3, do_sample=False)
    for number, prompt in enumerate(prompts):
        alone = lr.generate_lens(llama, prompt, max_new_tokens=3, do_sample=False)
        assert written.responses[number] == alone.responses[0]


def test_a_plain_nnsight_model_that_has_a_tokenizer_is_run_directly(llama):
    model = nnsight.NNsight(llama._module)
    model.tokenizer = llama.tokenizer
    assert_same(lr.logit_lens(model, "one prompt"), lr.logit_lens(llama, "one prompt"))


NUMBERS = [np.int64, np.uint8, np.array, torch.tensor]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.__name__)
def test_numbers_of_numpy_and_torch_are_numbers(llama, number):
    """In every argument, and as plain numbers in what a result says of itself."""
    asked = {"top_k": 3, "track": 2, "layers": 1, "positions": 0, "max_bytes": 100}
    expected = lr.logit_lens(llama, [7, 8], **asked)
    result = lr.logit_lens(llama, [7, 8], **{name: number(asked[name]) for name in asked})
    np.testing.assert_array_equal(result.top_ids, expected.top_ids)
    np.testing.assert_array_equal(result.tracked_ids, expected.tracked_ids)
    for recorded in (result.provenance, expected.provenance):
        recorded.pop("seconds", None)
    assert repr(result.provenance["arguments"]) == repr(expected.provenance["arguments"])
    part = lr.logit_lens(llama, [7, 8], components="head_out", heads=[(number(1), number(2))])
    assert [(site.layer, site.head) for site in part.sites] == [(1, 2)]
    written = lr.generate_lens(llama, [7, 8], max_new_tokens=number(2), top_k=number(3))
    assert written.tokens.generated.sum() == 2
    shown = [lr.table(expected, stride=stride, format="tsv") for stride in (2, number(2))]
    assert shown[0] == shown[1]
