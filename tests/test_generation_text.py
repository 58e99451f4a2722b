"""The text views of a generation say what its arrays say, and show every token as it is."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import numpy as np
import pytest
import tiny
from rich.console import Console

import lens_recipes as lr
from lens_recipes.arrays.generation import quartiles, settling, statistics, steps
from lens_recipes.arrays.text import visible_token
from lens_recipes.models.tokens.vocabulary import Decoder
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.tables.generation.numbers import (
    SECONDS,
    duration,
    statistics_table,
    timing_table,
)
from lens_recipes.views.tables.generation.report import generation_report
from lens_recipes.views.tables.generation.steps import print_layers
from lens_recipes.views.words import probability

PROMPTS = ["The quick brown fox", "One two"]


@pytest.fixture(scope="module")
def greedy(llama):
    return tiny.believed(lr.generate_lens(llama, PROMPTS, max_new_tokens=6, do_sample=False))


@pytest.fixture(scope="module")
def sampled(llama):
    result = lr.generate_lens(
        llama, PROMPTS, max_new_tokens=12, temperature=1.5, seed=1, include_prompt=True
    )
    return tiny.believed(result)


@pytest.fixture(scope="module")
def parts(llama):
    result = lr.generate_lens(
        llama, PROMPTS[0], max_new_tokens=3, components=["attn_out", "mlp_out"], do_sample=False
    )
    return tiny.believed(result)


def shown(what, result, *, width=250, **options) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    out = what(result, console, **options)
    return console.file.getvalue() if out is None else out


def printed(renderable, width=200) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """The sentence and the rows of each step."""
    found = []
    for line in text.splitlines():
        if line.startswith("step "):
            found.append((line, []))
        elif found and re.match(r"\s*\d+(–\d+)?  ", line):
            found[-1][1].append(line)
        elif found and not line.strip():
            found.append(("", []))  # what comes after is of no step
    return [block for block in found if block[0]]


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("prompt", [0, 1])
def test_steps_are_the_results_own_numbers(sampled, prompt):
    one = sampled[prompt]
    found, settled = steps(one), lr.settled_layers(one)
    assert [step.number for step in found] == list(range(1, 13))
    assert [step.token for step in found] == np.flatnonzero(one.tokens.generated).tolist()
    for step, where in zip(found, settled, strict=True):
        t = step.token
        assert step.wrote == one.text(one.tokens.next_id[t])
        assert step.logprob == one.tokens.next_logprob[t]
        assert step.sampler_logprob == one.tokens.sampler_logprob[t]
        assert step.first_choice == (one.tokens.next_id[t] == one.final_ids[t])
        assert (step.answer, step.answer_logprob) == (
            one.text(one.final_ids[t]),
            one.model_logprobs[t],
        )
        assert (step.site, where.token) == (where.site, t)
        assert step.margin == where.margin or math.isnan(step.margin) == math.isnan(where.margin)


def test_statistics_by_hand(sampled):
    """Of all prompts together, and of written tokens only, though the prompts were read too."""
    found, here = statistics(sampled), sampled.tokens.generated
    assert not here.all()
    first = sampled.tokens.next_id[here] == sampled.final_ids[here]
    assert 0 < first.sum() < here.sum()
    assert found.tokens == here.sum() == 24
    assert found.not_first == (~first).sum()
    settled = sampled.settled()[here]
    assert found.last == (settled == 3).sum()
    np.testing.assert_array_equal(found.layers, settled[settled >= 0])
    own = np.exp(sampled.tokens.next_logprob[here])
    assert found.probability == pytest.approx(own.mean())
    assert found.sampler_probability == pytest.approx(
        np.exp(sampled.tokens.sampler_logprob[here]).mean()
    )
    assert found.perplexity == pytest.approx(np.exp(-np.log(own).mean()))
    assert found.entropy == pytest.approx(sampled.entropy[-1, here].mean())
    tops = sampled.top_ids[:, here, 0]
    np.testing.assert_array_equal(found.changes, (tops[1:] != tops[:-1]).sum(0))


def test_quartiles_are_words():
    assert quartiles(np.array([20, 29, 28, 24])) == "26 (median; quartiles 23–28.2)"
    assert quartiles(np.array([7])) == "7 (median; quartiles 7–7)"


def test_without_an_order_nothing_settles(llama, parts):
    heads = lr.generate_lens(
        llama, PROMPTS[0], max_new_tokens=2, components="head_out", do_sample=False
    )
    for result in (parts, heads):
        assert settling(result) == []
        assert {step.site for step in steps(result[0])} == {-1}
        found = statistics(result)
        assert (found.entropy, found.changes, found.last, len(found.layers)) == (None, None, 0, 0)
        text = shown(generation_report, result)
        assert "settled" not in text
        assert "perplexity" in text


# -- layer by layer ----------------------------------------------------


@pytest.mark.parametrize("show_top", [1, 2, 5])
def test_every_layer_of_every_step_is_there(sampled, show_top):
    """A line for several layers stands for all of them: one top-1, the same others, the numbers of the last."""
    one = sampled[0]
    found = blocks(shown(print_layers, one, show_top=show_top))
    assert len(found) == 12
    for step, (_, rows) in zip(steps(one), found, strict=True):
        covered = []
        for row in rows:
            ends = [int(end) for end in row.split()[0].split("–")]
            layers = list(range(ends[0], ends[-1] + 1))
            covered += layers
            tops = one.top_ids[layers, step.token, :show_top]
            assert len(set(tops[:, 0].tolist())) == 1
            assert len({frozenset(top.tolist()) for top in tops}) == 1
            words = [
                f"{visible_token(one.text(i))} {probability(p)}"
                for i, p in zip(tops[-1], one.top_logprobs[layers[-1], step.token], strict=False)
            ]
            assert all(word in row for word in words)
            assert f"{one.entropy[layers[-1], step.token]:.2f}" in row
        assert covered == [0, 1, 2, 3]


def test_the_sentence_of_a_step(sampled):
    one = sampled[0]
    found, every = blocks(shown(print_layers, one)), steps(one)
    assert {step.first_choice for step in every} == {True, False}
    for step, (sentence, _) in zip(every, found, strict=True):
        t = step.token
        after = f"step {step.number}, after {visible_token(one.tokens.text[t], 24)} at position {one.tokens.position[t]}: wrote "
        assert sentence.startswith(
            f"{after}{visible_token(step.wrote, 24)}  p {probability(step.logprob)}, sampler's "
        )
        assert probability(step.sampler_logprob) in sentence
        if step.first_choice:
            assert ", the model's first choice" in sentence
        else:
            other = f"{visible_token(step.answer, 24)} p {probability(step.answer_logprob)}"
            assert f"not the model's first choice: {other}" in sentence
        assert f"settled at layer {step.site}, {step.margin:.2f} nats ahead" in sentence


def test_greedy_has_no_sampler(greedy):
    text = shown(generation_report, greedy)
    assert "sampler" not in text
    assert "not the model's first choice" not in text
    assert "0 of 12 (0%)" in text


def test_layers_that_say_the_same_share_a_line(greedy):
    """Where all layers agree there is one line, and where they do not, one for each."""
    same = np.broadcast_to(greedy.top_ids[-1:], greedy.top_ids.shape)
    sentences = blocks(shown(print_layers, dataclasses.replace(greedy, top_ids=same)[0]))
    assert [len(rows) for _, rows in sentences] == [1] * 6
    assert all(rows[0].split()[0] == "0–3" for _, rows in sentences)
    apart = same.copy()
    apart[::2, :, 0] = (apart[::2, :, 0] + 1) % 300
    apart = dataclasses.replace(greedy, top_ids=apart, texts={i: f"w{i}" for i in range(320)})
    assert [len(rows) for _, rows in blocks(shown(print_layers, apart[0]))] == [4] * 6


def test_some_layers_only(llama):
    result = lr.generate_lens(llama, PROMPTS[0], max_new_tokens=2, layers=[0, 2], do_sample=False)
    text = shown(generation_report, result)
    assert all(rows[-1].split()[0] in ("2", "0–2") for _, rows in blocks(text))
    never = [step for step in steps(result[0]) if step.site < 0]
    assert text.count("not top-1 at the last layer read") == len(never)


def test_targets_have_their_ranks(llama):
    result = lr.generate_lens(
        llama, PROMPTS[0], max_new_tokens=2, targets=[" the"], do_sample=False
    )
    text = shown(print_layers, result[0])
    assert text.count("rank of ·the") == 2
    assert blocks(text)[1][1][-1].split()[-1] == str(result.target_ranks[-1, 1, 0])
    assert "target ' the', at the last step: rank " in result.summary()


def test_components_stand_side_by_side(parts):
    text = shown(print_layers, parts[0])
    assert text.count("attn_out") == 3
    assert "several layers" not in text  # nothing is merged here
    assert [len(rows) for _, rows in blocks(text)] == [4, 4, 4]


def test_a_narrow_terminal_has_fewer_predictions_and_no_cut_rows(sampled):
    for width in (40, 60, 80):
        for _, rows in blocks(shown(print_layers, sampled[0], width=width, show_top=5)):
            assert all(len(row.rstrip()) <= width for row in rows)
            assert all(re.search(r"\d\.\d+ +\d+\.\d\d$", row.rstrip()) for row in rows)


# -- the whole ---------------------------------------------------------


def test_print_of_a_generation(sampled, greedy):
    """The response, a line for each step, and the proof."""
    text = str(sampled)
    for response in sampled.responses:
        assert escape_terminal(response.text) in text
    assert text.count("(12 tokens, finish: length)") == 2
    rows = [line.split() for line in text.splitlines() if re.match(r" +\d+  \S", line)]
    assert [int(row[0]) for row in rows] == [*range(1, 13)] * 2
    assert "first choice" in text
    assert "certified" in text
    assert "first choice" not in str(greedy)
    assert "top 1" in lr.table(greedy)  # a position, layer by layer, as of any result


def test_a_long_text_is_not_a_screen_for_each_token(llama):
    result = lr.generate_lens(llama, "One", max_new_tokens=45, do_sample=False)
    assert "… and 5 more steps" in str(result)


def test_a_part_prints_too(llama):
    """What `on_step` is given has no response yet."""
    seen = []
    lr.generate_lens(llama, "One", max_new_tokens=2, do_sample=False, on_step=seen.append)
    assert re.search(r"^ +1  \S", str(seen[1]), re.MULTILINE)
    assert "Layer by layer" in shown(generation_report, seen[1], written=True)


def test_a_result_without_generation_is_refused(llama):
    with pytest.raises(ValueError, match="generate_lens"):
        shown(generation_report, lr.logit_lens(llama, "One two"))


def test_the_report_shows_all_prompts(greedy):
    text = shown(generation_report, greedy)
    for prompt, response in zip(PROMPTS, greedy.responses, strict=True):
        assert prompt in text
        assert escape_terminal(response.text) in text
    assert len(blocks(text)) == 12
    assert (
        text.index("Layer by layer")
        < text.index("Timing")
        < text.index("Statistics")
        < text.index("certified")
    )
    assert (
        escape_terminal(greedy.responses[0].text)
        not in shown(generation_report, greedy, written=True).split("Layer")[0]
    )


def test_an_uncertified_result_says_so_first(greedy):
    bad = dataclasses.replace(
        greedy, certificate=dataclasses.replace(greedy.certificate, max_logit_error=9.0)
    )
    assert not bad.certificate.passed
    assert str(bad).startswith("NOT CERTIFIED")
    assert shown(generation_report, bad).startswith("NOT CERTIFIED")


def test_timings_have_units(greedy):
    text = printed(timing_table(greedy))
    for name, words in SECONDS.items():
        assert f"{duration(greedy.timings[name])}" in next(
            line for line in text.splitlines() if words in line
        )
    assert re.search(r"load the model +–", text)  # it was there already
    assert re.search(r"tokens written +12\b", text)
    assert re.search(r"tokens read +\d+\b", text)
    assert re.search(r"tokens/s", text)
    known = {*SECONDS, "input_tokens", "output_tokens", "tokens_per_second"}
    assert set(greedy.timings) == known  # none is left out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.2345, "1.23 s"),
        (0.0678, "67.8 ms"),
        (1.23e-5, "0.0123 ms"),
        (0.99999, "1.00 s"),
        (0.999, "999 ms"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_statistics_are_said(sampled):
    text, found = printed(statistics_table(sampled)), statistics(sampled)
    assert f"{quartiles(found.layers)} of 0–3" in text
    assert f"{found.not_first} of 24" in text
    assert f"{found.last} of 24" in text
    assert f"{found.entropy:.2f} nats" in text
    assert f"{found.sampler_probability:.3f}" in text


# -- hostile texts -----------------------------------------------------

HOSTILE = [
    "[red]",
    "[/]",
    "[bold]x[/bold]",
    "\x1b[2J",
    "\x07",
    "\u202e",
    "$x$",
    "<b>",
    ":smile:",
    "[link=x]",
]


def test_hostile_tokens_are_shown_as_they_are(sampled):
    texts = {i: HOSTILE[i % len(HOSTILE)] for i in range(320)}
    one = dataclasses.replace(
        sampled[0],
        texts=texts,
        tokens=dataclasses.replace(
            sampled[0].tokens, text=[texts[int(i)] for i in sampled[0].tokens.id]
        ),
        prompts=["[red]prompt[/red] \x1b[31m"],
        responses=[lr.Response("".join(HOSTILE), "length")],
    )
    for text in (str(one), shown(generation_report, one)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
        assert "[red]prompt[/red] ⟨1B⟩[31m" in text
        assert "[red][/][bold]x[/bold]⟨1B⟩[2J⟨07⟩⟨202E⟩$x$<b>:smile:[link=x]" in text
    report = shown(generation_report, one)
    assert re.search(r"wrote \[|wrote <b>|wrote ⟨|wrote :|wrote \$", report)
    assert all(word in report for word in ("[red]", "[bold]x[/b", "⟨1B⟩[2J", ":smile:"))
    assert "\x1b" not in one.summary()
    colours = Console(file=io.StringIO(), width=250, color_system="standard", force_terminal=True)
    generation_report(one, colours)
    codes = set(re.findall(r"\x1b\[[0-9;]*[A-Za-z]", colours.file.getvalue()))
    assert codes
    assert all(code.endswith("m") for code in codes)  # rich's own colours


def test_printable_keeps_what_a_person_reads():
    family = "👨\u200d👩\u200d👧"  # joined by characters without a look of their own
    assert escape_terminal(f"a\tb\n{family} é שלום") == f"a\tb\n{family} é שלום"
    assert escape_terminal("a\rb\x00\x9b\ud800\u2066") == "a⟨0D⟩b⟨00⟩⟨9B⟩⟨D800⟩⟨2066⟩"


@pytest.mark.parametrize(
    "text",
    ["🙂", "a🙂b🙂🙂", "naïve 中文 👨\u200d👩\u200d👧 end", "plain words", "\n\n", "ends in 🙂"],
)
def test_characters_of_several_tokens_come_out_whole(text):
    tokenizer = tiny.tiny_tokenizer()
    ids, decoder = tokenizer(text).input_ids, Decoder(tokenizer)
    pieces = [decoder.add(i) for i in ids]
    assert "".join(pieces) + decoder.rest() == text
    assert not any("\ufffd" in piece for piece in pieces)
    if text.isascii():
        assert all(pieces)  # at once


def test_bytes_that_are_no_character_come_out_in_the_end():
    tokenizer = tiny.tiny_tokenizer()
    half = tokenizer("🙂").input_ids[:2]
    decoder = Decoder(tokenizer)
    assert [decoder.add(i) for i in half] == ["", ""]
    assert decoder.rest() == tokenizer.decode(half) != ""
    decoder = Decoder(tokenizer)
    pieces = [decoder.add(i) for i in [*half, *tokenizer(" ok").input_ids]]
    assert "".join(pieces) == tokenizer.decode(half) + " ok"
    assert Decoder(tokenizer).add(tokenizer.eos_token_id) == ""


# -- summary -----------------------------------------------------------


def test_the_summary_of_a_generation(sampled):
    text, lines = sampled.summary(), sampled.summary().splitlines()
    assert "2 prompts" in lines[0]
    assert sum("finish: length" in line for line in lines) == 2
    for one in sampled:
        found, stats = steps(one), statistics(one)
        assert quartiles(stats.layers) in text
        others = [step for step in found if not step.first_choice]
        assert f"not the model's first choice: {len(others)} of 12" in text
        worst = min(others, key=lambda step: step.logprob)
        assert (
            f"least likely step {worst.number} {worst.wrote!r} (p {probability(worst.logprob)}; "
            in text
        )
        late = min(found, key=lambda step: (-step.site, step.margin))
        assert (
            f"settled latest, and by the smallest margin: step {late.number} {late.answer!r}"
            in text
        )
    assert "distrust: sampled: with another seed" in text


def test_the_summary_distrusts_what_it_should(llama, greedy, parts):
    assert "distrust: sampled" not in greedy.summary()
    assert "not the model's first choice" not in greedy.summary()
    assert "distrust: one prompt is one observation" in greedy[0].summary()
    assert "distrust: attn_out, mlp_out: what is added" in parts.summary()
    assert "settled" not in parts.summary()
    cut = dataclasses.replace(
        greedy, responses=[lr.Response("x" * 500, "interrupted"), lr.Response("b", "eos")]
    )
    assert "distrust: interrupted: the text of prompt 0 is not all" in cut.summary()
    assert "x" * 300 not in cut.summary()
    assert (
        "the model answers" in lr.logit_lens(llama, "One two").summary()
    )  # of other results as before
