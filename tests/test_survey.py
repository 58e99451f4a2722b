"""A survey says of each item what the lens says of its prompt alone, and dates answers where they were planted."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import strict_local
import tiny
from planted import FIRST_WORD, N_LAYERS, N_WORDS, SHARE, answer_of, planted_model
from scipy import stats
from surveys import assert_same, items_of
from tiny import shared

import lens_recipes as lr
from lens_recipes.arrays.certificate import Certificate, joined_certificate, verdict
from lens_recipes.arrays.survey.metrics import emergence, prediction_depth
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.recipes.survey.items import Item, read_items
from lens_recipes.recipes.survey.prepare import ItemReader, choose_controls

TOLERANCE = 1e-4  # of batches with others


def alone(model, item, tokens, **options):
    """What `logit_lens` says of tokens at an item's position, its prompt by itself: ranks, log-probabilities `[site, token]`."""
    position = item.get("position", -1)
    found = lr.logit_lens(
        model, [item["prompt"]], positions=position, targets=tokens, track=None, **options
    )
    return found, found.target_ranks[:, 0], found.target_logprobs[:, 0].astype(np.float64)


def summed(logprobs):
    """log Σ exp, over the last axis."""
    return np.log(np.exp(logprobs).sum(-1))


def group(value):
    """A field as a list."""
    return value if isinstance(value, list) else [value]


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
def test_each_item_has_the_numbers_of_its_prompt_alone(family):
    model, items = shared(family), items_of(11)
    found = lr.survey(model, items)
    assert not found.left_out
    controls = controls_of(model, items)
    for index, item in enumerate(items):
        tokens = group(item["target"])
        lens, ranks, logprobs = alone(model, item, tokens)
        np.testing.assert_array_equal(found.ranks[index], ranks.min(-1))
        np.testing.assert_allclose(found.logprobs[index], summed(logprobs), atol=TOLERANCE)
        np.testing.assert_allclose(found.entropy[index], lens.entropy[:, 0], atol=TOLERANCE)
        np.testing.assert_allclose(found.kl_to_final[index], lens.kl_to_final[:, 0], atol=TOLERANCE)
        np.testing.assert_array_equal(found.top_ids[index], lens.top_ids[:, 0, 0])
        assert found.answer_ids[index] == lens.final_ids[0]
        assert found.position[index] == item.get("position", -1) % len(item["prompt"])
        assert found.target_ids[index][: len(tokens)].tolist() == tokens
        assert (found.target_ids[index][len(tokens) :] == -1).all()
        if "against" in item:
            _, _, logprobs = alone(model, item, item["against"])
            against = summed(logprobs)
            np.testing.assert_allclose(found.against_logprobs[index], against, atol=TOLERANCE)
        else:
            assert np.isnan(found.against_logprobs[index]).all()
            assert (found.against_ids[index] == -1).all()
        _, ranks, logprobs = alone(model, item, controls[index].shuffled)
        np.testing.assert_array_equal(found.shuffled_ranks[index], ranks.min(-1))
        np.testing.assert_allclose(found.shuffled_logprobs[index], summed(logprobs), atol=TOLERANCE)
        _, ranks, logprobs = alone(model, item, controls[index].random)
        np.testing.assert_array_equal(found.random_ranks[index], ranks.min(-1))
        np.testing.assert_allclose(found.random_logprobs[index], summed(logprobs), atol=TOLERANCE)
    assert verdict(found) == "certified"
    assert found.certificate.tokens == len(items)


def controls_of(model, items, seed=0):
    """The controls of items, as one block has them."""
    reader = ItemReader(model, anatomy(model), add_special_tokens=True)
    prepared = [reader.prepare(item) for item in read_items(items)]
    return choose_controls(prepared, None, reader.vocab_size, seed)


def test_a_control_is_never_the_answer_and_comes_from_the_same_group():
    items = items_of(60)
    items += [{**item, "id": f"again {number}"} for number, item in enumerate(items[:20])]
    items += [{"prompt": [7, 8], "target": 9, "group": "alone"}]
    model = shared("llama")
    for seed in (0, 1):
        controls = controls_of(model, items, seed)
        assert controls == controls_of(model, items, seed)
        for item, control in zip(items, controls, strict=True):
            own = set(group(item["target"]))
            assert not own & set(control.shuffled)
            assert not set(control.random) & (own | set(group(item.get("against", []))))
            assert len(set(control.random)) == len(own)  # as many chances as the answer has
            others = [group(other["target"]) for other in items if other["group"] == item["group"]]
            assert control.shuffled in others or item["group"] == "alone"
        assert controls[-1].shuffled == []
    assert controls_of(model, items, 0) != controls_of(model, items, 1)


def test_the_same_seed_gives_the_same_survey():
    model, items = shared("llama"), items_of(9)
    first = lr.survey(model, items)
    assert_same(first, lr.survey(model, iter(items)))
    other = lr.survey(model, items, seed=1)
    np.testing.assert_array_equal(first.ranks, other.ranks)
    assert (first.shuffled_ranks != other.shuffled_ranks).any()


def test_a_lens_edits_layers_and_components_are_those_of_the_logit_lens():
    model, items = shared("llama"), items_of(6)
    lens = lr.fit_lens(model, tiny.random_ids(24, 12).tolist(), tokens=10_000)
    edits = lr.ablate(layer=1, component="mlp_out")
    options = {"layers": [0, 2], "components": ["resid_post", "mlp_out"], "edits": edits}
    found = lr.survey(model, items, **options)
    with_lens = lr.survey(model, items, lens=lens)
    assert [str(edit) for edit in found.edits] == [str(edits)]
    for index, item in enumerate(items):
        tokens = group(item["target"])
        result, _, logprobs = alone(model, item, tokens, controls=0, **options)
        assert found.sites == result.sites
        np.testing.assert_allclose(found.logprobs[index], summed(logprobs), atol=TOLERANCE)
        _, _, logprobs = alone(model, item, tokens, lens=lens)
        np.testing.assert_allclose(with_lens.logprobs[index], summed(logprobs), atol=TOLERANCE)


# -- planted truth -----------------------------------------------------

# Word number n: its answer is written at this layer; None for never.
PLANTED: list[int | None] = [0, 1, 1, 2, 2, 2, 3, 4, 5, None, None]
WRITES = {
    FIRST_WORD + number: [(layer, SHARE)]
    for number, layer in enumerate(PLANTED)
    if layer is not None
}
# The last word: written at 1, taken away at 2, written again at 4.
LAST = FIRST_WORD + N_WORDS - 1
WRITES[LAST] = [(1, SHARE), (2, -SHARE), (4, SHARE)]
TRUTH = [-1 if layer is None else layer for layer in PLANTED] + [4]


@pytest.fixture(scope="module")
def planted():
    """A survey of 20 prompts for each word, in a random order, and the layer at which each answer was planted."""
    rng = np.random.default_rng(0)
    words = rng.permutation(np.repeat(np.arange(N_WORDS), 20))
    items = []
    for word in words.tolist():
        before = rng.integers(FIRST_WORD, FIRST_WORD + N_WORDS, rng.integers(0, 9)).tolist()
        token = FIRST_WORD + word
        items.append({"prompt": [*before, token], "target": answer_of(token), "cluster": str(word)})
    found = lr.survey(planted_model(WRITES), items)
    return found, np.array(TRUTH)[words]


def test_each_answer_emerges_at_the_layer_where_it_was_written(planted):
    found, truth = planted
    np.testing.assert_array_equal(emergence(found), truth)
    # Where nothing is written, the model says the word itself from the start on.
    np.testing.assert_array_equal(prediction_depth(found), np.where(truth < 0, 0, truth))
    assert (emergence(found, "shuffle") == -1).all()


def test_the_emergence_curve_is_that_of_kaplan_and_meier(planted):
    """Items whose answer never emerges are censored after the last layer."""
    found, truth = planted
    never = truth < 0
    observed = stats.CensoredData(uncensored=truth[~never], right=np.full(never.sum(), N_LAYERS))
    curve = stats.ecdf(observed).cdf
    expected = [float(curve.evaluate(layer)) for layer in range(N_LAYERS)]
    np.testing.assert_allclose(found.curve("emerged").interval.estimate, expected, atol=1e-12)


def test_pass_at_k_of_a_survey_is_that_of_its_draws(planted):
    found, _ = planted
    mine, theirs = found.pass_at_k([1, 5], layers=[1, 2]), lr.pass_at_k(found, [1, 5], layers=[1, 2], draws=found.draws)  # fmt: skip
    for one, other in zip(mine.interval, theirs.interval, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_curves_are_the_shares_that_were_planted(planted):
    found, truth = planted
    by_layer = [((truth >= 0) & (truth <= layer)).mean() for layer in range(N_LAYERS)]
    np.testing.assert_allclose(found.curve("emerged").interval.estimate, by_layer)
    for_a_while = np.array([0, 1, 0, 0, 0, 0]) / N_WORDS  # the last word, until it is taken away
    accuracy = found.curve("accuracy@1")
    np.testing.assert_allclose(accuracy.interval.estimate, by_layer + for_a_while)
    assert accuracy.n_clusters == N_WORDS
    assert (accuracy.interval.low <= by_layer + for_a_while).all()
    assert (accuracy.interval.high >= by_layer + for_a_while).all()
    control = found.curve("accuracy@1", control="shuffle").interval
    assert (control.estimate == 0).all()
    summary = found.summary()
    assert "the answer emerges (is top-1 to the end) at layer 2" in summary
    assert f"{100 * 2 / N_WORDS:.0f}%" in summary  # never


def test_only_correct_leaves_out_what_the_model_does_not_say():
    items = [
        {"prompt": [FIRST_WORD + number], "target": answer_of(FIRST_WORD + number)}
        for number in range(N_WORDS)
    ]
    kept = lr.survey(planted_model(WRITES), items, only_correct=True)
    assert kept.number.tolist() == [number for number in range(N_WORDS) if TRUTH[number] >= 0]
    assert [(number, reason) for number, _, reason, _ in kept.left_out] == [
        (9, "the model's own answer is another"),
        (10, "the model's own answer is another"),
    ]
    assert "left out: 2 of 12 items: the model's own answer is another (2)" in kept.summary()
    assert "left out: 2 of 12 items: the model's own answer is another (2)" in str(kept)


# -- what is asked -----------------------------------------------------


def test_items_may_come_in_any_form(llama, tmp_path):
    texts = [f"The word {word} is" for word in ("one", "two", "three", "four", "five", "six")]
    rows = [
        {"id": f"i{n}", "prompt": text, "target": "a" if n % 2 else "e", "group": str(n % 2)}
        for n, text in enumerate(texts)
    ]
    whole = lr.survey(llama, rows)
    forms = {"a.jsonl": None, "a.csv": ",", "a.tsv": "\t"}
    for name, delimiter in forms.items():
        with (tmp_path / name).open("w", newline="") as file:
            if delimiter is None:
                file.write("\n".join(map(json.dumps, rows)) + "\n\n")
                continue
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    pandas = pytest.importorskip("pandas")
    for form in (*(tmp_path / name for name in forms), iter(rows), tuple(rows), pandas.DataFrame(rows)):  # fmt: skip
        assert_same(whole, lr.survey(llama, form))
    renamed = [{"q": row["prompt"], "a": row["target"], "kind": row["group"], "id": row["id"]} for row in rows]  # fmt: skip
    fields = {"prompt": "q", "target": "a", "group": "kind"}
    assert_same(whole, lr.survey(llama, renamed, fields=fields))
    ids = [{**row, "prompt": llama.tokenizer(row["prompt"]).input_ids} for row in rows]
    assert_same(whole, lr.survey(llama, ids))


def test_chats_go_through_the_template(llama):
    chat = [{"role": "user", "content": "Say a."}]
    found = lr.survey(llama, [{"prompt": chat, "target": "a"}])
    result = lr.logit_lens(llama, [chat], positions=-1, targets=["a"])
    np.testing.assert_allclose(found.logprobs[0], result.target_logprobs[:, 0, 0], atol=TOLERANCE)


def test_a_frame_with_gaps_is_read():
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(
        [
            {"prompt": [7, 8, 9], "target": 9, "position": 1, "group": "a"},
            {"prompt": [7, 8], "target": 9, "position": None, "group": pandas.NA},
        ]
    )
    found = [item for item in read_items(rows) if isinstance(item, Item)]
    assert [item.position for item in found] == [1, -1]
    assert [item.group for item in found] == ["a", ""]


def test_positions_hold_for_items_that_name_none():
    items = [{"prompt": [7, 8, 9], "target": 5}, {"prompt": [7, 8, 9], "target": 5, "position": 2}]
    found = lr.survey(shared("llama"), items, positions=1)
    assert found.position.tolist() == [1, 2]


def test_what_cannot_be_asked_is_in_the_ledger_with_its_reason(llama):
    items = [
        {"prompt": "The", "target": "a"},
        {"prompt": "The", "target": "no token at all"},
        {"prompt": "The", "target": ["no token at all", "a"]},
        {"prompt": "The", "target": "a", "against": "no token at all"},
        {"prompt": "The", "target": "a", "against": "a"},
        {"prompt": "x" * 500, "target": "a"},
        {"prompt": "The", "target": "a", "position": 50},
        {"prompt": "The", "target": "a", "position": {"at": "nowhere"}},
        {"prompt": [99_999], "target": "a"},
        {"prompt": ["The", "One"], "target": "a"},
        {"prompt": "The", "target": 99_999},
    ]
    found = lr.survey(llama, items)
    assert found.number.tolist() == [0, 2]
    assert [reason for _, _, reason, _ in found.left_out] == [
        "the target is several tokens",
        "what it is held against is several tokens",
        "the target and what it is held against share a token",
        "the prompt is too long",
        "the prompt has no such position",
        "the prompt has no such position",
        "the prompt cannot be encoded",
        "the prompt cannot be encoded",
        "the target is no id of this model",
    ]
    details = [detail for *_, detail in found.left_out]
    assert all(detail.startswith("item ") for detail in details)
    assert not any(detail.endswith(".") for detail in details)
    assert "left out: 9 of 11 items" in str(found)
    assert "left out: 9 of 11 items" in found.summary()


def test_several_models_are_asked_the_same():
    items = items_of(8)
    models = [shared("llama"), shared("qwen2")]
    both = lr.survey(models=models, items=iter(items))
    for model, found in zip(models, both, strict=True):
        assert_same(found, lr.survey(model, items))
    compared = both[0].compare(both[1], "logprob")
    expected = (both[1].logprobs.astype(np.float64) - both[0].logprobs).mean(0)
    np.testing.assert_allclose(compared.difference.estimate, expected, atol=1e-6)


# -- elsewhere ---------------------------------------------------------


def test_a_survey_of_a_server_is_that_of_here(llama, monkeypatch):
    items = items_of(7)
    here = lr.survey(llama, items)
    strict_local.install(monkeypatch, "lens_recipes")
    there = lr.survey(llama, items, remote="local")
    np.testing.assert_array_equal(there.ranks, here.ranks)
    np.testing.assert_allclose(there.logprobs, here.logprobs, atol=TOLERANCE)
    np.testing.assert_allclose(there.shuffled_logprobs, here.shuffled_logprobs, atol=TOLERANCE)
    assert there.names == here.names


# -- the certificate of many runs --------------------------------------


def test_a_joined_certificate_is_as_bad_as_its_worst_in_any_order():
    plain = Certificate(1e-6, 10.0, 1e-7, 1.0, 3, "float32", links=4, max_link_error=0.0, max_link_layer=2)  # fmt: skip
    edited = Certificate(2e-6, 9.0, 1e-8, 2 / 3, 3, "float32", links=4, max_link_error=0.0, max_link_layer=1, max_edit_error=1e-7, edit_identity_error=0.0, edit_cone_error=1e-6, worst_edit="a")  # fmt: skip
    broken = Certificate(2e-6, 9.0, 1e-8, 1 / 3, 3, "float32", links=4, max_link_error=0.0, max_link_layer=1, max_edit_error=1e-7, edit_identity_error=0.0, edit_cone_error=1.0, worst_edit="b")  # fmt: skip
    joined = joined_certificate([plain, edited, broken])
    assert joined == joined_certificate([broken, plain, edited])
    assert joined == joined_certificate([joined_certificate([plain, broken]), edited])
    assert not joined.passed
    assert joined.worst_edit == "b"
    assert joined.top1_agreement == 6 / 9
    assert joined_certificate([plain, edited]).passed
