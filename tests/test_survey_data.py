"""The small sets that come with the package, the paper's evaluation sets, and pass@k."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from tiny import tiny_tokenizer, unsettle
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import lens_recipes as lr
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.survey.arrays import SURVEY_AXES, ItemNames, SurveyArrays
from lens_recipes.arrays.survey.curves import Draws
from lens_recipes.recipes.survey.items import Item, LeftOut, read_items
from lens_recipes.recipes.survey.places import Place, ids_up_to
from lens_recipes.recipes.survey.sets.own_sets import own_set, own_set_names
from lens_recipes.recipes.survey.sets.spellings import expanded, words_of_numbers, written_variants
from lens_recipes.recipes.survey.survey import survey

SETS = ["antonyms", "arithmetic", "capitals", "colours", "plurals", "translation", "two-hop"]
FIELDS = {"id", "prompt", "target", "against", "group", "cluster"}
MIN_TEMPLATES = 5  # of a group: fewer give no interval


def lines_of(name: str) -> list[dict]:
    """The items of an own set, as they are written."""
    return [json.loads(line) for line in own_set(name).read_text(encoding="utf-8").splitlines()]


def by_id(name: str) -> dict[str, dict]:
    """The items of an own set by their ids."""
    return {item["id"]: item for item in lines_of(name)}


# -- own sets: what is written -----------------------------------------


def test_these_sets_are_there():
    assert own_set_names() == SETS


@pytest.mark.parametrize("name", SETS)
def test_each_item_of_a_set_is_whole(name):
    items = lines_of(name)
    assert 60 <= len(items) <= 150
    for item in items:
        extra = {"bridge"} if name == "two-hop" else set()
        assert set(item) == FIELDS | extra
        for field in ("id", "prompt", "group", "cluster"):
            assert isinstance(item[field], str)
            assert item[field] == item[field].strip() != ""
        for field in ("target", "against", *extra):
            assert item[field]
            assert all(isinstance(text, str) and text.strip() for text in item[field])
            assert len(set(item[field])) == len(item[field])
        assert not set(item["target"]) & set(item["against"])
    for field in ("id", "prompt"):
        values = [item[field] for item in items]
        assert len(set(values)) == len(values)


def fillings(item: dict) -> list[str]:
    """What stands in a prompt where its template has dots."""
    parts = [re.escape(part) for part in item["cluster"].split("…")]
    match = re.fullmatch("(.+)".join(parts), item["prompt"].replace("\n", " "))
    assert match, item["id"]
    return list(match.groups())


@pytest.mark.parametrize("name", [name for name in SETS if name != "translation"])
def test_each_prompt_is_its_template_and_does_not_say_the_answer(name):
    """The templates of translation have names of their own."""
    for item in lines_of(name):
        asked = set(re.findall(r"\w+", " ".join(fillings(item)).lower()))
        answers = {text.strip().lower() for text in item["target"]}
        assert asked
        if name != "arithmetic":  # four minus two is two
            assert not asked & answers, item["id"]


@pytest.mark.parametrize("name", SETS)
def test_each_group_has_templates_enough_for_an_interval(name):
    templates: dict[str, set] = {}
    for item in lines_of(name):
        templates.setdefault(item["group"], set()).add(item["cluster"])
    assert min(map(len, templates.values())) >= MIN_TEMPLATES


# -- own sets: what is true --------------------------------------------

FACTS = [
    ("capitals", "capital-france", " Paris"),
    ("capitals", "capital-australia", " Canberra"),
    ("capitals", "capital-turkey", " Ankara"),
    ("capitals", "capital-canada", " Ottawa"),
    ("capitals", "capital-illinois", " Springfield"),
    ("capitals", "capital-new-york-state", " Albany"),
    ("colours", "colour-emerald", " green"),
    ("colours", "colour-elephant", " grey"),
    ("antonyms", "antonym-hot", " cold"),
    ("antonyms", "antonym-borrow", None),
    ("antonyms", "antonym-to-open", " close"),
    ("plurals", "plural-mouse", " mice"),
    ("plurals", "plural-crisis", " crises"),
    ("plurals", "plural-city", " cities"),
    ("translation", "translation-french-english-eau", " water"),
    ("translation", "translation-english-german-buch", " Buch"),
    ("translation", "translation-english-italian-re", " re"),
    ("two-hop", "two-hop-capital-australia", " Canberra"),
    ("two-hop", "two-hop-language-austria", " German"),
    ("two-hop", "two-hop-opposite-cold", " hot"),
]


@pytest.mark.parametrize(("name", "item", "answer"), FACTS)
def test_facts_that_are_known(name, item, answer):
    items = by_id(name)
    if answer is None:
        assert item not in items
    else:
        assert answer in items[item]["target"]


def test_every_sum_is_right():
    """Computed from what the id says; in the prompt the same numbers stand."""
    number = {word: str(value) for value, word in enumerate(words_of_numbers())}
    compute = {
        "addition": lambda first, second: first + second,
        "subtraction": lambda first, second: first - second,
        "multiplication": lambda first, second: first * second,
        "counting": lambda first: first + 1,
    }
    for item in lines_of("arithmetic"):
        operation, *rest = item["id"].split("-")
        terms = [int(term) for term in rest if term.isdecimal()]
        result = compute[operation](*terms)
        said = {number.get(text.strip().lower(), text.strip()) for text in item["target"]}
        assert said == {str(result)}, item["id"]
        wrong = {number.get(text.strip().lower(), text.strip()) for text in item["against"]}
        assert str(result) not in wrong
        assert len(wrong) == 1
        asked = re.findall(r"\w+", item["prompt"].lower())
        asked = [
            int(number.get(word, word)) for word in asked if number.get(word, word).isdecimal()
        ]
        assert asked[-len(terms) :] == terms, item["id"]


def test_a_plural_is_no_singular_and_an_opposite_is_no_word_itself():
    for item in lines_of("plurals"):
        assert item["id"].removeprefix("plural-") == item["against"][0].strip()
    for item in lines_of("antonyms"):
        word = item["id"].removeprefix("antonym-").removeprefix("to-")
        assert re.search(rf"\b{word}\b", item["prompt"])
        assert f" {word}" not in item["target"] + item["against"]


# -- own sets: as items of a survey ------------------------------------


def test_a_set_is_read_by_its_name():
    items = list(read_items("capitals"))
    assert [item.id for item in items] == [item["id"] for item in lines_of("capitals")]
    assert all(isinstance(item, Item) and item.position == -1 for item in items)
    bridges = list(read_items("two-hop", {"target": "bridge"}))
    assert bridges[0].target == (" France",)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capitals").write_text("")
    with pytest.raises(ValueError, match="is no file of items"):
        list(read_items("capitals"))


def test_an_unknown_name_lists_those_that_there_are():
    with pytest.raises(ValueError, match="comes with the package: antonyms, arithmetic"):
        list(read_items("capitols"))
    with pytest.raises(ValueError, match=r"there is no set 'capitols'.*'capitals'"):
        own_set("capitols")


def word_tokenizer() -> hf.PreTrainedTokenizerFast:
    """A tokenizer to which every word of the own sets, with the space before it, is one token."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words: dict[str, int] = {"<unknown>": 0}
    for name in SETS:
        for item in lines_of(name):
            for text in (item["prompt"], *item["target"], *item["against"]):
                for piece, _ in split.pre_tokenize_str(text):
                    words.setdefault(piece, len(words))
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unknown>")


@pytest.fixture(scope="module")
def reader_of_words():
    """A small model whose tokens are the words of the own sets."""
    tokenizer = word_tokenizer()
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(config).float().eval()
    unsettle(model, 1)
    return lr.load(model, tokenizer=tokenizer)


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_surveyed(reader_of_words, name):
    found = survey(reader_of_words, name)
    items = lines_of(name)
    assert len(found) + len(found.left_out) == len(items)
    assert {reason for _, _, reason, _ in found.left_out} <= {"the target is several tokens"}
    assert len(found.left_out) <= 2
    assert found.groups == list(dict.fromkeys(item["group"] for item in items))
    assert np.isfinite(found.logprobs).all()
    assert np.isfinite(found.against_logprobs).all()
    measured = lr.pass_at_k(found, [10])
    assert np.isfinite(measured.interval.low).all()


def test_smollm2_follows_the_templates(smollm2):
    """Words that a small model cannot follow would measure nothing."""
    found = survey(smollm2, lines_of("capitals")[:18], layers=[-1])
    assert len(found) >= 17
    assert (found.ranks[:, -1] == 0).mean() > 0.6
    assert (found.logprobs[:, -1] > found.against_logprobs[:, -1]).mean() > 0.75


def test_answers_to_the_same_prompt_are_no_controls(reader_of_words):
    """Shuffled among two prompts: each of the first's two answers gets the second's, never the other."""
    items = [
        {"prompt": "The capital of France is", "target": " Paris"},
        {"prompt": "The capital of France is", "target": " Lyon"},
        {"prompt": "The capital of Spain is", "target": " Madrid"},
    ]
    found = survey(reader_of_words, items)
    alone = survey(reader_of_words, [items[0] | {"target": " Madrid"}, items[2]])
    assert (found.shuffled_ranks[:2] == alone.ranks[0]).all()
    none = survey(reader_of_words, items[:2])
    assert (none.shuffled_ranks == -1).all()


# -- places in a prompt ------------------------------------------------

PLACES = [
    ("The color of the planet is ", "red", " is"),
    ("The color of the planet is", " red", " is"),
    ("The number of its legs is ", "8", " "),
    ("(2 + 3) * 4 = ", "20", " "),
    ('Le contraire de "petit" est "', "grand", ' "'),
    ("He was named after Julius ", "Caesar", " Julius"),
]


@pytest.mark.parametrize(("prompt", "target", "read"), PLACES)
def test_the_token_before_a_target(smollm2, prompt, target, read):
    """A space at the end of the prompt belongs to the target's token, if the tokenizer says so."""
    tokenizer = smollm2.tokenizer
    ids = ids_up_to(prompt, Place("before", target), tokenizer, add_special_tokens=True)
    assert tokenizer.decode(ids[-1:]) == read
    whole = tokenizer(prompt + target).input_ids
    assert whole[: len(ids)] == ids
    rest = tokenizer.decode(whole[len(ids) :])
    assert rest.strip() == target.strip()


def test_the_token_that_holds_the_last_line_break(smollm2):
    prompt = "A couplet:\nThe swimmer dove into the lake,\nAnd felt the ice begin to "
    ids = ids_up_to(prompt, Place("at", "\n"), smollm2.tokenizer, add_special_tokens=True)
    assert smollm2.tokenizer.decode(ids) == "A couplet:\nThe swimmer dove into the lake,\n"
    ids = ids_up_to(prompt, Place("at", "lake"), smollm2.tokenizer, add_special_tokens=True)
    assert smollm2.tokenizer.decode(ids[-1:]) == " lake"


@pytest.mark.parametrize("text", ["naïve café → ", "日本の首都は", "emoji 🙂🙂 "])
@pytest.mark.parametrize("target", ["é", "東京", "🙂", "x"])
def test_places_hold_for_characters_of_several_tokens(smollm2, text, target):
    tokenizer = smollm2.tokenizer
    ids = ids_up_to(text, Place("before", target), tokenizer, add_special_tokens=False)
    whole = tokenizer(text + target).input_ids
    assert text.startswith(tokenizer.decode(ids))
    assert len(tokenizer.decode(whole[: len(ids) + 1])) > len(text) - 1


def test_tokens_that_a_tokenizer_adds_are_no_places():
    tokenizer = tiny_tokenizer()
    ids = ids_up_to("lens", Place("before", "es"), tokenizer, add_special_tokens=True)
    assert ids == tokenizer("lens").input_ids[: len(ids)]
    with pytest.raises(ValueError, match="the prompt has no"):
        ids_up_to("lens", Place("at", "\n"), tokenizer, add_special_tokens=True)
    with pytest.raises(ValueError, match="needs a prompt that is a text"):
        ids_up_to([3, 4], Place("at", "\n"), tokenizer, add_special_tokens=True)
    with pytest.raises(ValueError, match="give the position as a number"):
        ids_up_to("lens", Place("at", "n"), None, add_special_tokens=True)


def test_a_place_is_the_number_of_its_token(smollm2):
    """The same numbers as with the prompt cut there, and as with the position counted by hand."""
    prompt = "The color of the planet fourth from the Sun is "
    item = {"prompt": prompt, "target": " Mars"}
    named = survey(smollm2, [item | {"position": {"before": "red"}}], layers=[20, -1])
    cut = survey(smollm2, [item | {"prompt": prompt.rstrip()}], layers=[20, -1])
    ids = smollm2.tokenizer(prompt).input_ids
    counted = survey(smollm2, [item | {"prompt": ids, "position": -2}], layers=[20, -1])
    for other in (cut, counted):
        assert (named.ranks == other.ranks).all()
        np.testing.assert_allclose(named.logprobs, other.logprobs, atol=1e-4)
    spaced = survey(smollm2, [item], layers=[20, -1])
    assert not np.allclose(named.logprobs, spaced.logprobs, atol=1e-2)


def test_a_place_that_is_not_there_is_left_out(reader_of_words):
    items = [
        {"prompt": "The capital of France is", "target": " Paris"},
        {"prompt": "The capital of Spain is", "target": " Madrid", "position": {"at": "\n"}},
    ]
    found = survey(reader_of_words, items)
    assert [name.id for name in found.names] == ["0"]
    ((number, _, reason, detail),) = found.left_out
    assert (number, reason) == (1, "the prompt has no such position")
    assert "has no '\\n'" in detail


@pytest.mark.parametrize("position", [{}, {"at": ""}, {"after": "x"}, {"at": "x", "before": "y"}])
def test_a_place_of_another_form_is_refused(position):
    with pytest.raises(ValueError, match=r'accepted are a whole number, \{"at"'):
        list(read_items([{"prompt": "x", "target": "y", "position": position}]))


# -- evaluation sets of the paper --------------------------------------

EVALS = {
    "multihop": [
        {
            "name": "tusk-land",
            "prompt": "Fact: The color of the animal with tusks is ",
            "target": "gray",
            "intermediates": ["elephant"],
        },
        {
            "name": "web-legs",
            "prompt": "Fact: The number of legs of what spins a web is ",
            "target": "8",
            "intermediates": ["spider", "zzzqqqxx"],
        },
    ],
    "multilingual": [
        {
            "name": "fr-far",
            "prompt": 'Le contraire de "loin" est "',
            "target": "près",
            "intermediates": ["French", "far", "near"],
        },
    ],
    "order-ops": [
        {
            "name": "sum-first",
            "prompt": "(1 + 6) * 3 = ",
            "target": "21",
            "intermediates": ["7", "multiplication"],
        }
    ],
    "poetry": [
        {
            "name": "sky-fly",
            "prompt": "A rhyme:\nThe bird looked up into the sky,\nAnd longed again that it could ",
            "intermediates": ["fly"],
        }
    ],
    "association": [
        {
            "name": "sea",
            "prompt": "Salt on the lips, gulls, and a far horn.",
            "intermediates": ["sea"],
        }
    ],
    "typo": [
        {
            "name": "recieve",
            "prompt": "It is a gift that you will recieve",
            "intermediates": ["receive"],
        }
    ],
}


@pytest.fixture
def evals(tmp_path):
    """A folder with sets of the paper's form."""
    for name, items in EVALS.items():
        write_eval(tmp_path, name, {"items": items})
    return tmp_path


def write_eval(folder, name, content):
    """Write one set, or something that is none."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / f"lens-eval-{name}.json").write_text(text, encoding="utf-8")


def test_every_intermediate_is_an_item(evals):
    items = lr.lens_evals(evals)
    assert [item["id"] for item in items][:3] == [
        "multihop/tusk-land/elephant",
        "multihop/web-legs/spider",
        "multihop/web-legs/zzzqqqxx",
    ]
    assert len(items) == 11
    assert list(dict.fromkeys(item["group"] for item in items)) == list(EVALS)
    assert items[1]["cluster"] == items[2]["cluster"] == "multihop/web-legs"
    assert items[0]["target"] == [" elephant", "elephant", " Elephant", "Elephant"]
    positions = {item["group"]: item["position"] for item in items}
    assert positions == {
        "multihop": {"before": "8"},
        "multilingual": {"before": "près"},
        "order-ops": {"before": "21"},
        "poetry": {"at": "\n"},
        "association": -1,
        "typo": -1,
    }
    assert all(isinstance(item, Item) for item in read_items(items))


def test_synonyms_stand_in_order_ops_alone(evals):
    targets = {item["id"]: item["target"] for item in lr.lens_evals(evals)}
    assert targets["order-ops/sum-first/7"] == [" 7", "7", " seven", "seven", " Seven", "Seven"]
    assert {" times", "*", " ×", " multiplication"} <= set(
        targets["order-ops/sum-first/multiplication"]
    )
    assert expanded("21") == ["21", "twenty-one"]
    assert expanded("seven") == ["seven", "7"]
    assert expanded("elephant") == ["elephant"]
    assert len(words_of_numbers()) == 100
    assert words_of_numbers()[42] == "forty-two"
    assert written_variants("*") == [" *", "*"]


def test_one_file_and_only_some_of_them(evals):
    typos = lr.lens_evals(evals / "lens-eval-typo.json")
    assert [item["id"] for item in typos] == ["typo/recieve/receive"]
    (evals / "lens-eval-poetry.json").unlink()
    (evals / "lens-eval-other.json").write_text("not read")
    assert "poetry" not in {item["group"] for item in lr.lens_evals(str(evals))}


def test_two_items_of_one_name_are_two_clusters(evals):
    write_eval(evals, "typo", {"items": EVALS["typo"] * 2})
    typos = lr.lens_evals(evals / "lens-eval-typo.json")
    assert len({item["id"] for item in typos}) == len({item["cluster"] for item in typos}) == 2


WRONG = [
    ("multihop", "{", "is no JSON"),
    ("multihop", "[" * 100_000, "is no JSON"),
    ("multihop", [1], "is no evaluation set"),
    ("multihop", {"items": []}, "is no evaluation set"),
    ("multihop", {"items": [3]}, "item 0: this is 3, no object"),
    (
        "multihop",
        {"items": [{"prompt": "x", "target": "y", "intermediates": ["z"]}]},
        "item 0: its 'name'",
    ),
    (
        "multihop",
        {"items": [{"name": "a", "prompt": ["x"], "target": "y", "intermediates": ["z"]}]},
        "its 'prompt'",
    ),
    (
        "multihop",
        {"items": [{"name": "a", "prompt": "x", "intermediates": ["z"]}]},
        "its 'target' must be a text",
    ),
    (
        "typo",
        {"items": [*EVALS["typo"], {"name": "b", "prompt": "x", "intermediates": []}]},
        "item 1: its 'intermediates'",
    ),
    (
        "typo",
        {"items": [{"name": "b", "prompt": "x", "intermediates": "z"}]},
        "its 'intermediates'",
    ),
    (
        "typo",
        {"items": [{"name": "b", "prompt": "x", "intermediates": ["z", ""]}]},
        "its 'intermediates'",
    ),
    ("poetry", {"items": [{"name": "b", "prompt": "x", "intermediates": ["z"]}]}, "no line break"),
]


@pytest.mark.parametrize(("name", "content", "words"), WRONG)
def test_files_of_another_form_are_refused(tmp_path, name, content, words):
    write_eval(tmp_path, name, content)
    with pytest.raises(ValueError, match=re.escape(words)):
        lr.lens_evals(tmp_path)


def test_paths_that_hold_no_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has none of the files lens-eval-multihop\.json"):
        lr.lens_evals(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor one of the files"):
        lr.lens_evals(tmp_path / "typo.json")
    with pytest.raises(ValueError, match="cannot be read"):
        lr.lens_evals(tmp_path / "lens-eval-typo.json")
    (tmp_path / "lens-eval-typo.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no JSON"):
        lr.lens_evals(tmp_path)


def test_the_sets_are_surveyed_where_the_paper_reads_them(smollm2, evals):
    found = survey(smollm2, lr.lens_evals(evals), layers=[10, 20, -1])
    ends = {name.cluster: name.prompt for name in found.names}
    assert ends["multihop/tusk-land"].endswith("tusks is")
    assert ends["multihop/web-legs"].endswith("web is ")  # digits are tokens by themselves
    assert ends["multilingual/fr-far"].endswith('est "')
    assert ends["order-ops/sum-first"].endswith("= ")
    assert ends["poetry/sky-fly"].endswith("sky,\n")
    assert ends["association/sea"].endswith("horn.")
    assert ends["typo/recieve"].endswith("recieve")
    assert [entry[1] for entry in found.left_out] == ["multihop/web-legs/zzzqqqxx"]
    table = lr.pass_table({"logit": found, "again": found}, [1, 1000])
    assert table.groups == list(EVALS)
    assert "items left out: logit 1, again 1" in str(table)


def test_a_folder_or_a_file_of_them_is_surveyed_as_it_is(smollm2, evals):
    by_path = survey(smollm2, evals, layers=[-1])
    by_hand = survey(smollm2, lr.lens_evals(evals), layers=[-1])
    assert by_path.names == by_hand.names
    np.testing.assert_array_equal(by_path.ranks, by_hand.ranks)
    one = evals / "lens-eval-typo.json"
    assert {name.group for name in survey(smollm2, str(one), layers=[-1]).names} == {"typo"}


# -- pass@k ------------------------------------------------------------


def made(ranks, clusters=None, groups=None, left_out=()) -> SurveyArrays:
    """A survey with these ranks, `[item, layer]`, and else nothing worth reading."""
    ranks = np.array(ranks, dtype=np.int32)
    n_items, n_layers = ranks.shape
    clusters = clusters or [""] * n_items
    groups = groups or [""] * n_items
    arrays = {}
    for name, axes in SURVEY_AXES.items():
        shape = {("item",): (n_items,), ("item", "site"): ranks.shape}.get(axes, (n_items, 1))
        arrays[name] = np.zeros(shape, dtype=np.int32)
    arrays["ranks"] = ranks
    arrays["shuffled_ranks"] = np.full_like(ranks, -1)
    names = [
        ItemNames(str(number), group, cluster, "")
        for number, (group, cluster) in enumerate(zip(groups, clusters, strict=True))
    ]
    sites = [Site(layer, "resid_post") for layer in range(n_layers)]
    return SurveyArrays(sites=sites, names=names, left_out=list(left_out), **arrays)


def by_hand(ranks, clusters, k):
    """The paper's measure, written out."""
    shares = {}
    for row, cluster in zip(ranks, clusters, strict=True):
        smallest = min(rank + 1 for rank in row)
        shares.setdefault(cluster, []).append(smallest <= k)
    return sum(sum(found) / len(found) for found in shares.values()) / len(shares)


def test_pass_at_k_is_the_papers_measure():
    generator = np.random.default_rng(0)
    ranks = generator.integers(0, 300, (60, 5))
    clusters = [f"item {number}" for number in generator.integers(0, 20, 60)]
    ks = [1, 5, 20, 100]
    found = lr.pass_at_k(made(ranks, clusters), ks)
    expected = [by_hand(ranks.tolist(), clusters, k) for k in ks]
    np.testing.assert_allclose(found.interval.estimate, expected, rtol=1e-12)
    assert (found.interval.n == len(set(clusters))).all()
    assert found.n_items == 60


def test_every_cluster_counts_the_same():
    """One item of nine intermediates that are found does not outweigh one of one that is not."""
    ranks = [[0, 50]] * 9 + [[50, 50]]
    found = lr.pass_at_k(made(ranks, ["a"] * 9 + ["b"]), [1])
    assert found.interval.estimate[0] == 0.5
    alone = lr.pass_at_k(made(ranks), [1])
    assert alone.interval.estimate[0] == 0.9


def test_rank_one_is_the_top():
    found = lr.pass_at_k(made([[0, 9], [1, 9], [2, 9]]), [1, 2, 3])
    np.testing.assert_allclose(found.interval.estimate, [1 / 3, 2 / 3, 1])


def test_only_some_layers_and_groups_count():
    survey_of_two = made([[0, 7], [7, 0], [7, 7]], groups=["a", "a", "b"])
    assert lr.pass_at_k(survey_of_two, [1], layers=[0]).interval.estimate[0] == 1 / 3
    assert lr.pass_at_k(survey_of_two, [1], group="a").interval.estimate[0] == 1
    assert lr.pass_at_k(survey_of_two, [1], group="b").interval.estimate[0] == 0
    with pytest.raises(ValueError, match="must be some of those that were read: 0, 1"):
        lr.pass_at_k(survey_of_two, [1], layers=[2])
    with pytest.raises(ValueError, match="group='c' is unknown"):
        lr.pass_at_k(survey_of_two, [1], group="c")


def test_items_without_a_control_do_not_count():
    ranks = np.array([[3], [3], [3], [3]])
    found = made(ranks, ["a", "a", "b", "c"])
    shuffled = np.array([[0], [-1], [9], [-1]], dtype=np.int32)
    found = dataclasses.replace(found, shuffled_ranks=shuffled)
    control = lr.pass_at_k(found, [1], control="shuffle")
    assert control.n_items == 2
    assert control.interval.n[0] == 2
    assert control.interval.estimate[0] == 0.5


def test_the_interval_is_that_of_clusters():
    """Of 40 clusters with 5 equal items each: as wide as that of 40 items, not of 200."""
    generator = np.random.default_rng(1)
    per_cluster = generator.integers(0, 2, (40, 1))
    clusters = [str(number) for number in range(40) for _ in range(5)]
    repeated = made(np.repeat(per_cluster, 5, axis=0), clusters)
    draws = Draws(n_resamples=4000)
    clustered = lr.pass_at_k(repeated, [1], draws=draws).interval
    single = lr.pass_at_k(made(per_cluster), [1], draws=draws).interval
    naive = lr.pass_at_k(made(np.repeat(per_cluster, 5, axis=0)), [1], draws=draws).interval
    assert clustered.low[0] == pytest.approx(single.low[0], abs=0.02)
    assert clustered.high[0] == pytest.approx(single.high[0], abs=0.02)
    assert clustered.high[0] - clustered.low[0] > 2 * (naive.high[0] - naive.low[0])
    few = lr.pass_at_k(made([[0], [1]], ["a", "b"]), [1]).interval
    assert np.isnan(few.low).all()


@pytest.mark.parametrize("ks", [[], [0], [1.5], 3, [True]])
def test_ks_that_are_none_are_refused(ks):
    with pytest.raises(ValueError, match="must be whole numbers from 1"):
        lr.pass_at_k(made([[0]]), ks)


def test_the_table_holds_what_pass_at_k_says():
    generator = np.random.default_rng(2)
    groups = ["a"] * 10 + ["b"] * 10
    first = made(generator.integers(0, 9, (20, 3)), groups=groups)
    other = made(
        generator.integers(0, 9, (10, 3)), groups=groups[:10], left_out=[(10, "b/1", "", "")]
    )
    table = lr.pass_table({"logit": first, "x|y": other}, [1, 5])
    assert table.cells[1][1] is None
    for row in table.rows():
        whole = {"logit": first, "x|y": other}[row["survey"]]
        expected = lr.pass_at_k(whole, [row["k"]], group=row["group"]).interval
        assert row["estimate"] == expected.estimate[0]
        assert row["low"] == pytest.approx(expected.low[0], abs=1e-6)
        assert row["high"] == pytest.approx(expected.high[0], abs=1e-6)
    text = str(table).splitlines()
    assert text[0].split() == ["set", "k", "clusters", "logit", "x|y"]
    assert text[3].endswith("–")
    assert text[-1] == "items left out: logit 0, x|y 1"
    markdown = table.markdown().splitlines()
    assert {re.sub(r"\\\|", "", line).count("|") for line in markdown[:6]} == {6}
    same = lr.pass_table({"logit": made([[0]] * 9)}, [1])
    assert str(same).splitlines()[1].split() == ["all", "1", "9", "1.000"]
    with pytest.raises(ValueError, match="a dict of surveys by their names"):
        lr.pass_table([first])


def test_a_survey_of_nothing_but_errors_says_why(reader_of_words):
    with pytest.raises(lr.LensError, match="the prompt has no such position"):
        survey(reader_of_words, [{"prompt": "x", "target": " Paris", "position": {"at": "\n"}}])


def test_broken_items_are_left_out_of_an_own_file(tmp_path):
    """A copy of a set, with one line broken: the others are the same."""
    path = tmp_path / "mine.jsonl"
    with own_set("plurals").open("rb") as source, path.open("wb") as copy:
        shutil.copyfileobj(source, copy)
        copy.write(b"{\n")
    found = list(read_items(str(path), on_error="skip"))
    assert isinstance(found[-1], LeftOut)
    assert found[:-1] == list(read_items("plurals"))
