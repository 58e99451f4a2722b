"""What is seen of a survey: tables, summary, frames, figures and the page say the planted truth, with intervals,
controls, n and what was left out."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
from hostile import FIELD, HOSTILE, assert_inert, cell_words
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright
from surveys import items_of
from test_generation_figures import generation
from tiny import shared

import lens_recipes as lr
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.edits.kinds import ablate
from lens_recipes.arrays.survey import names as survey_names
from lens_recipes.arrays.survey.arrays import SURVEY_AXES, ItemNames, SurveyArrays
from lens_recipes.arrays.survey.compare import compare_surveys, paired_sites
from lens_recipes.arrays.survey.curves import Draws, beyond_control, curve
from lens_recipes.arrays.survey.findings import (
    emergence_median,
    first_beyond_control,
    group_differences,
)
from lens_recipes.arrays.survey.joint import Wanted, joint_intervals
from lens_recipes.arrays.survey.names import find_name
from lens_recipes.arrays.survey.pass_at_k import pass_at_k
from lens_recipes.arrays.survey.pass_table import cell_text
from lens_recipes.results.survey import as_survey
from lens_recipes.views.figures.survey.curves import (
    accuracy_curve,
    emergence_curve,
    rank_curve,
    survey_curve,
)
from lens_recipes.views.figures.survey.depths import depth_histogram
from lens_recipes.views.figures.survey.difference import difference_curve
from lens_recipes.views.figures.survey.heatmap import survey_heatmap
from lens_recipes.views.pages.survey import survey_page
from lens_recipes.views.summaries.survey.summary import survey_summary
from lens_recipes.views.summaries.survey.words import run_words
from lens_recipes.views.tables.survey import comparison, latex
from lens_recipes.views.tables.survey.comparison import comparison_table
from lens_recipes.views.tables.survey.content import ALL_METRICS
from lens_recipes.views.tables.survey.frames import curve_frame, survey_frame
from lens_recipes.views.tables.survey.latex import latex_text
from lens_recipes.views.tables.survey.table import survey_table

N_LAYERS = 8
DRAWS = Draws(n_resamples=400)
VOCAB = 1000
CERTIFIED = Certificate(1e-6, 10.0, 1e-9, 1.0, 40, "float32", links=N_LAYERS, max_link_error=0.0)


def planted(
    first, groups=None, clusters=None, *, left_out=(), n_layers=N_LAYERS, good=True, **provenance
):
    """A survey in which the answer of item i is the top token from layer `first[i]` on (−1: never).

    Before, its rank is 40. Its controls are never among the first 100; with `good=False`, the answer is as they are.
    Layers 0 and 1 are worse than a uniform guess.
    """
    n = len(first)
    layers = np.arange(n_layers)
    is_on = (np.array(first)[:, None] >= 0) & (layers >= np.array(first)[:, None])
    wave = 200 + 10 * np.sin(np.arange(n)[:, None] + layers)
    ranks = np.where(is_on & good, 0, 40 if good else wave).astype(np.int32)
    logprobs = np.where(is_on & good, -0.5, -6.0) - 0.01 * np.arange(n)[:, None]
    control = wave[::-1].astype(np.int32) if not good else np.full_like(ranks, 150)
    away = np.float32(-8) - 0.01 * np.arange(n)[::-1, None] + np.zeros((1, n_layers))
    kl = np.where(layers < 2, 20.0, 1.0 - layers / (n_layers - 1)) * np.ones((n, 1))
    kl[:, -1] = 0
    names = []
    for i in range(n):
        names.append(ItemNames(f"id{i}", groups[i % len(groups)] if groups else "", clusters[i] if clusters else "", f"prompt {i} is"))  # fmt: skip
    return SurveyArrays(
        sites=[Site(layer) for layer in range(n_layers)],
        names=names,
        number=np.arange(n),
        target_ids=np.column_stack([np.full(n, 5), np.full(n, -1)]).astype(np.int32),
        against_ids=np.full((n, 1), 6, dtype=np.int32),
        answer_ids=np.where(np.array(first) >= 0, 5, 7).astype(np.int32),
        position=np.full(n, 3, dtype=np.int32),
        ranks=ranks,
        logprobs=(logprobs if good else away[::-1]).astype(np.float32),
        against_logprobs=np.full((n, n_layers), -3, dtype=np.float32),
        entropy=np.full((n, n_layers), 1.5, dtype=np.float32),
        kl_to_final=kl.astype(np.float32),
        top_ids=np.where(is_on, 5, 7).astype(np.int32),
        shuffled_ranks=control,
        shuffled_logprobs=away.astype(np.float32),
        random_ranks=control + 1,
        random_logprobs=away.astype(np.float32) - 1,
        left_out=list(left_out),
        texts={5: " Paris", 6: " Rome", 7: " the"},
        certificate=CERTIFIED,
        provenance={"model": "tiny", "vocab_size": VOCAB, "recipe": "survey", **provenance},
    )


LEFT_OUT = [
    (3, "x", "the target is several tokens", "item 3: ' Ulan' is 2 tokens"),
    (9, "y", "the target is several tokens", "item 9"),
    (11, "z", "cannot be read", "line 12"),
]
EDIT = ablate(layer=3, component="mlp_out").to_json()
FIRST = [2, 3, 4, 5, 6, 7, -1, 4, 4, 5, -1, 6] * 4
GROUPS = ["easy", "hard"]


def whole() -> SurveyArrays:
    """48 items in two groups, each an observation of its own; three were left out."""
    return planted(FIRST, GROUPS, left_out=LEFT_OUT)


def few() -> SurveyArrays:
    """12 items of three templates: too few for an interval."""
    return planted(FIRST[:12], GROUPS, [f"t{i % 3}" for i in range(12)], left_out=LEFT_OUT)


TEXT_VIEWS = {
    "text": lambda survey: survey_table(survey, draws=DRAWS),
    "text by group": lambda survey: survey_table(survey, by="group", draws=DRAWS),
    "narrow": lambda survey: survey_table(survey, width=44, draws=DRAWS),
    "markdown": lambda survey: survey_table(survey, format="markdown", draws=DRAWS),
    "latex": lambda survey: survey_table(survey, by="group", format="latex", draws=DRAWS),
    "summary": lambda survey: survey_summary(survey, DRAWS),
}

FIGURES = {
    "accuracy": lambda survey, **options: accuracy_curve(survey, draws=DRAWS, **options),
    "accuracy@5": lambda survey, **options: accuracy_curve(survey, k=5, draws=DRAWS, **options),
    "rank": lambda survey, **options: rank_curve(survey, draws=DRAWS, **options),
    "emergence": lambda survey, **options: emergence_curve(survey, draws=DRAWS, **options),
    "histogram": lambda survey, **options: depth_histogram(survey, draws=DRAWS, **options),
    "heatmap": lambda survey, **options: survey_heatmap(survey, draws=DRAWS, **options),
}


def read(text: str) -> str:
    """A table's text without what its format adds."""
    text = html.unescape(text.replace("<!-- -->", ""))
    return re.sub(r"\\text\w+\{\}|[\\{}$]", "", text).replace("  ", " ")


def subtitle(figure) -> str:
    return html.unescape(figure.layout.title.subtitle.text)


# -- numbers ---------------------------------------------------------------------------------------------------------------


def test_joint_numbers_are_those_of_each_curve():
    survey = planted(FIRST, GROUPS, [f"t{i % 9}" for i in range(len(FIRST))])
    wanted = [Wanted(metric) for metric in ("accuracy@1", "rank", "kl", "emerged")]
    wanted += [Wanted("logprob", "random"), Wanted("rank", minus="shuffle")]
    for group in (None, "hard"):
        found = joint_intervals(survey, wanted, [1, 4, 7], group=group, draws=DRAWS)
        for each in wanted:
            if each.minus:
                alone = beyond_control(survey, each.metric, group=group, control=each.minus, draws=DRAWS).difference  # fmt: skip
            else:
                alone = curve(survey, each.metric, group=group, control=each.control, draws=DRAWS).interval  # fmt: skip
            for ours, theirs in zip(found[each], alone, strict=True):
                np.testing.assert_allclose(ours, theirs[[1, 4, 7]], rtol=1e-5, atol=1e-6)


def test_rows_for_programs_are_the_curves():
    survey = whole()
    text = survey_table(survey, metric=["accuracy@1", "rank", "entropy"], format="tsv", draws=DRAWS)
    rows = list(csv.DictReader(io.StringIO(text), dialect="excel-tab", strict=True))
    assert len(rows) == N_LAYERS * (3 + 3 + 1)  # two controls, but for the entropy
    for row in rows:
        drawn = curve(survey, row["metric"], control=row["control"] or None, draws=DRAWS).interval
        layer = int(row["layer"])
        assert float(row["estimate"]) == pytest.approx(drawn.estimate[layer], rel=1e-4)
        assert float(row["low"]) == pytest.approx(drawn.low[layer], rel=1e-4, abs=1e-6)
        assert float(row["high"]) == pytest.approx(drawn.high[layer], rel=1e-4, abs=1e-6)
        assert (row["n"], row["items"], row["left_out"], row["certified"]) == ("48", "48", "3", "1")
        assert row["statistic"] == ("median" if row["metric"] == "rank" else "mean")
    by_group = json.loads(survey_table(survey, by="group", format="json", stride=7, draws=DRAWS))
    assert {row["group"] for row in by_group} == {None, "easy", "hard"}


@pytest.mark.parametrize("metric", ["accuracy@1", "rank", "logprob", "kl", "emerged"])
def test_cells_of_a_table_are_the_curves(metric):
    survey = whole()
    table = survey_table(survey, metric=metric, by="group", format="markdown", draws=DRAWS)
    grid = [line.split(" | ") for line in read(table).splitlines() if line.startswith("| ")]
    headings = [heading.strip("| ") for heading in grid[0]]
    for line in grid[2:]:
        layer = int(line[0].strip("| "))
        for heading, cell in zip(headings[1:], line[1:], strict=True):
            group = {"all": None, "control": None}.get(heading, heading.strip("`")[:4])
            control = "shuffle" if heading == "control" else None
            drawn = curve(survey, metric, group=group, control=control, draws=DRAWS).interval
            numbers = [float(ends[layer]) for ends in drawn[:3]]
            assert cell.replace("°", "").strip("| ") == find_name(metric).with_interval(*numbers)


def test_the_default_table_has_all_metrics_with_their_controls():
    survey = whole()
    heading = read(survey_table(survey, format="markdown", draws=DRAWS)).splitlines()[2].split()
    for metric in ALL_METRICS:
        assert set(find_name(metric).heading.split()) <= set(heading)
    assert heading.count("control") == 7
    without = dataclasses.replace(survey, against_logprobs=np.full_like(survey.logprobs, np.nan))
    assert "logit diff" not in survey_table(without, draws=DRAWS)


def test_a_narrow_table_names_what_it_leaves_out():
    lines = survey_table(whole(), width=44, draws=DRAWS).splitlines()
    assert max(map(len, lines)) <= 44
    text = " ".join(lines)
    assert "acc@1" in lines[2]
    assert "(no room for" in text
    assert "MRR" in text


def test_long_surveys_are_thinned_to_about_twenty_rows():
    survey = planted([3] * 10, n_layers=80)
    table = survey_table(survey, metric="accuracy@1", draws=DRAWS)
    rows = [line for line in table.splitlines() if re.match(r"\d+ ", line)]
    assert "20 of 80 layers" in table
    assert "79" in rows[19]
    assert "of 80" not in survey_table(survey, metric="accuracy@1", stride=1, draws=DRAWS)


def test_frames_hold_each_item_and_each_point():
    survey = whole()
    frame = survey_frame(survey)
    assert len(frame) == 48 * N_LAYERS
    row = frame[(frame["id"] == "id4") & (frame["layer"] == 6)].iloc[0]
    assert (row["rank"], row["correct"], row["top"], row["group"]) == (0, True, " Paris", "easy")
    assert row["logprob"] == pytest.approx(survey.logprobs[4, 6])
    assert not frame[frame["layer"] == 0]["readable"].any()
    points = curve_frame(survey, draws=DRAWS)
    accuracy = points[(points.metric == "accuracy@1") & (points.group == "hard") & points.control.isna()]  # fmt: skip
    drawn = curve(survey, "accuracy@1", group="hard", draws=DRAWS).interval
    np.testing.assert_allclose(accuracy["low"], drawn.low, atol=1e-6)
    assert {"emerged", "decided"} <= set(points.metric)
    assert set(points.n) == {48, 24}


# -- what every view must say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", TEXT_VIEWS)
def test_every_text_says_n_the_ledger_and_the_lens(view):
    text = " ".join(read(TEXT_VIEWS[view](whole())).split())
    assert "48 items in 2 groups" in text
    assert "tiny, logit lens" in text
    assert "left out: 3 of 51 items: the target is several tokens (2), cannot be read (1)" in text
    assert "95% intervals" in text
    assert "certified: last" in text
    assert "control" in text


@pytest.mark.parametrize("view", TEXT_VIEWS)
def test_few_clusters_have_no_interval_and_say_so(view):
    text = " ".join(read(TEXT_VIEWS[view](few())).split())
    assert "no intervals: 3 clusters only, and at least 5 are needed" in text
    assert not re.search(r"\d%? ?\[", text)


@pytest.mark.parametrize("view", TEXT_VIEWS)
def test_every_text_says_edited_and_not_certified(view):
    survey = planted(FIRST, edits=[EDIT])
    said = re.sub(r"\W", "", read(TEXT_VIEWS[view](survey)))
    assert "edited" in said
    assert "mlp" in said
    failed = dataclasses.replace(CERTIFIED, max_logit_error=5.0)
    text = TEXT_VIEWS[view](dataclasses.replace(survey, certificate=failed))
    assert "NOT CERTIFIED" in text


@pytest.mark.parametrize("view", FIGURES)
def test_every_figure_says_n_the_ledger_the_lens_and_edits(view):
    said = subtitle(FIGURES[view](planted(FIRST, GROUPS, left_out=LEFT_OUT, edits=[EDIT])))  # fmt: skip
    for words in ("48 items in 2 groups", "tiny, logit lens, certified", "left out: 3 of 51 items", "95% intervals", "edited: ", "layers 0–1 cannot be read"):  # fmt: skip
        assert words in said
    assert "no intervals: 3 clusters only" in subtitle(FIGURES[view](few()))


def test_small_groups_are_named():
    survey = planted([4] * 23, ["a"] * 20 + ["tiny group"] * 3)
    words = "no interval, fewer than 5 items: tiny group (3 items)"
    assert words in survey_table(survey, by="group", draws=DRAWS)
    assert words in survey_summary(survey, DRAWS)
    assert words in subtitle(accuracy_curve(survey, draws=DRAWS))


def test_intervals_without_width_are_explained():
    survey = planted([4] * 10)
    words = "a true share of up to 26%, or down to 74%, may look so"  # 1 − 0.05 ** (1 / 10)
    assert words in survey_table(survey, metric="accuracy@1", draws=DRAWS)
    assert "up to 26% of others may be different" in survey_summary(survey, DRAWS)


def test_what_is_no_better_than_its_control_is_marked():
    assert first_beyond_control(whole(), ["accuracy@1"], "shuffle", DRAWS)["accuracy@1"] == Site(2)
    table = survey_table(whole(), metric="logprob", draws=DRAWS)
    assert "°" not in table  # −6 against −8 at all layers
    same = planted(FIRST, good=False)
    table = survey_table(same, metric=["rank", "logprob"], draws=DRAWS)
    rows = [line for line in table.splitlines() if re.match(r"\d ", line)]
    assert len(rows) == N_LAYERS
    assert all(row.count("°") == 2 for row in rows)
    assert "accuracy@1 does not leave its control" in survey_summary(same, DRAWS)


# -- the summary -----------------------------------------------------------------------------------------------------------


def test_the_summary_says_what_was_planted():
    first = [3] * 30 + [-1] * 10
    said = survey_summary(planted(first), DRAWS)
    share = find_name("accuracy@1").with_interval(*(float(e[-1]) for e in curve(planted(first), "accuracy@1", draws=DRAWS).interval[:3]))  # fmt: skip
    assert f"at layer 7, the model's output, the answer is top-1 in {share} (n 40)" in said
    assert "control 0% [0, 0] (n 40)" in said
    assert "accuracy@1 leaves its control at layer 3 and stays beyond it" in said
    assert "at layer 3 [3, 3] in half of the items (n 40, those without it counted as last); never in 25%" in said  # fmt: skip
    assert "distrust: layers 0, 1 cannot" in said or "distrust: layers 0–1 cannot" in said
    assert 'Give items a "cluster"' in said  # none has one
    clustered = planted(first, clusters=[f"t{i % 8}" for i in range(40)])
    assert "8 clusters only" in survey_summary(clustered, DRAWS)
    assert "other clusters like these 8" in survey_summary(clustered, DRAWS)


def test_pass_at_k_is_in_the_summary_and_on_the_page(tmp_path):
    survey = planted([3] * 30 + [-1] * 10, GROUPS)
    own = pass_at_k(survey, [10], draws=DRAWS).interval
    share = find_name("accuracy@1").with_interval(*(float(end[0]) for end in own[:3]))
    said = survey_summary(survey, DRAWS)
    assert (
        f"among the first 10 tokens of at least one of 8 layers in {share} (n 40); control" in said
    )
    survey_page(survey, tmp_path / "page.html", draws=DRAWS)
    table = re.search(
        r'<table id="passes">.*?</table>', (tmp_path / "page.html").read_text(), re.DOTALL
    )
    rows = [re.findall(r"<t[hd].*?>(?:<bdi>)?(.*?)(?:</bdi>)?</t[hd]>", row) for row in table[0].split("<tr>")[1:]]  # fmt: skip
    assert rows[0] == ["group", "pass@1", "control", "pass@10", "control", "pass@100", "control"]
    assert [row[0] for row in rows[1:]] == ["all", *survey.groups]
    for name, *cells in rows[1:]:
        group = None if name == "all" else name
        for column, (k, control) in enumerate([(k, c) for k in (1, 10, 100) for c in (None, "shuffle")]):  # fmt: skip
            found = pass_at_k(survey, [k], group=group, control=control, draws=DRAWS)
            assert cells[column] == cell_text(found, 0)
    one_layer = survey_summary(
        dataclasses.replace(
            survey,
            sites=survey.sites[-1:],
            **{
                name: getattr(survey, name)[:, -1:]
                for name, axes in SURVEY_AXES.items()
                if axes[-1] == "site"
            },
        ),
        DRAWS,
    )
    assert "pass@" not in one_layer


def test_views_show_what_the_survey_was_told_to():
    survey = planted([1] * 10 + [-1] * 30)
    told = dataclasses.replace(
        survey,
        provenance=survey.provenance | {"shown": {"metrics": ["rank", "kl"], "control": "random"}},
    )
    headings = survey_table(told, stride=1, draws=DRAWS).splitlines()[1].split("  ")
    assert [heading.strip() for heading in headings if heading] == [
        "layer",
        "median rank",
        "control",
        "KL",
    ]
    assert "Median rank" in survey_table(told, format="latex", draws=DRAWS).replace(
        "median", "Median"
    )
    assert "control: a random token about as frequent" in survey_summary(told, DRAWS)
    assert "control: random" in lines_of(accuracy_curve(told, draws=DRAWS))
    assert list(dict.fromkeys(curve_frame(told, draws=DRAWS).metric)) == ["rank", "kl"]
    bare = dataclasses.replace(
        survey, provenance=survey.provenance | {"shown": {"metrics": None, "control": None}}
    )
    assert "control:" not in survey_table(bare, draws=DRAWS)
    assert "control" not in "".join(lines_of(emergence_curve(bare, draws=DRAWS)))
    assert "no control: nothing says what another answer would have had" in survey_summary(
        bare, DRAWS
    )


def test_never_is_later_than_all_layers():
    found = emergence_median(planted([1] * 10 + [-1] * 30), draws=DRAWS)
    assert found.site is None
    assert float(found.never.estimate) == 0.75
    middle = emergence_median(planted([1] * 21 + [-1] * 19), draws=DRAWS)
    assert middle.site == Site(1)
    assert middle.high is None


def test_a_group_that_differs_is_found_and_others_are_not():
    # Every third item is of a group that never gets there.
    first = [3, 4, -1] * 12
    differences = group_differences(planted(first, ["a", "b", "c"]), "accuracy@1", 7, DRAWS)
    assert [each.differs for each in differences] == [True, True, True]
    assert float(differences[2].difference.estimate) == -1.0
    said = survey_summary(planted(first, ["a", "b", "c"]), DRAWS)
    assert "3 of 3 groups differ" in said
    assert "“c” 0%" in said
    assert "-100 [-100, -100] points" in said
    alike = planted([3, 3, -1, -1] * 10, ["a", "b"])
    assert not any(each.differs for each in group_differences(alike, "accuracy@1", 7, DRAWS))
    assert "no group is told apart" in survey_summary(alike, DRAWS)


def test_groups_that_share_clusters_are_compared_pair_by_pair():
    # Clusters differ much from each other, and group b is worse in each by the same: only pairs show it.
    rng = np.random.default_rng(0)
    level = rng.normal(0, 5, 12)
    survey = planted([3] * 24, ["a", "b"], [f"c{i // 2}" for i in range(24)])
    logprobs = survey.logprobs.copy()
    logprobs[:, 7] = np.repeat(level, 2) - np.tile([0, 0.5], 12) + rng.normal(0, 0.1, 24)
    survey = dataclasses.replace(survey, logprobs=logprobs)
    difference = group_differences(survey, "logprob", 7, DRAWS)[0]
    assert difference.differs
    assert float(difference.difference.high) < 1
    apart = dataclasses.replace(survey, names=[name._replace(cluster="") for name in survey.names])
    assert not group_differences(apart, "logprob", 7, DRAWS)[0].differs


def test_the_false_alarms_of_groups_are_as_rare_as_promised():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(60):
        survey = planted(rng.choice([3, -1], 80).tolist(), ["a", "b", "c", "d"])
        alarms += any(each.differs for each in group_differences(survey, "accuracy@1", 7, DRAWS))
    assert alarms <= 8  # of 60, where 5 % are promised: 3; 9 would be as rare as one in 300


def test_small_groups_that_never_get_there_raise_no_alarm():
    """A group of eight without a right answer is no rarity where one of ten is right: its draws never differ."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(40):
        survey = planted(rng.choice([3, -1], 80, p=[0.1, 0.9]).tolist(), list("abcdefghij"))
        alarms += any(each.differs for each in group_differences(survey, "accuracy@1", 7, DRAWS))
    assert alarms <= 5  # of 40, where 5 % are promised: 2


# -- figures ---------------------------------------------------------------------------------------------------------------


def lines_of(figure):
    """The lines of a figure by name, each with the two edges of its band, if it has one."""
    scatters = [trace for trace in figure.data if trace.type == "scatter"]
    edges = [trace for trace in scatters if trace.name == "band"]
    found = {}
    for trace in scatters:
        if trace.name != "band":
            own = [edge for edge in edges if edge.legendgroup == trace.legendgroup]
            found[trace.name] = (trace, own)
    return found


@pytest.mark.parametrize("k", [1, 5, 10])
def test_accuracy_curves_have_bands_and_control(k):
    survey = whole()
    lines = lines_of(accuracy_curve(survey, k=k, draws=DRAWS))
    assert list(lines) == ["control: shuffle", "easy", "hard"]
    for name, (line, band) in lines.items():
        control = "shuffle" if "control" in name else None
        drawn = curve(survey, f"accuracy@{k}", group=None if control else name, control=control, draws=DRAWS)  # fmt: skip
        for trace, numbers in zip((line, *band), drawn.interval[:3], strict=True):
            np.testing.assert_allclose(trace.y, numbers)
        assert len(line.customdata) == N_LAYERS
        assert "n: " in line.customdata[0]
    control, easy, hard = (line for line, _ in lines.values())
    assert control.line.dash == "dash"
    assert control.line.color == "#767676"
    assert easy.line.color != hard.line.color
    assert "[" in easy.customdata[5]
    assert "24 items" in easy.customdata[5]


def test_ranks_stand_on_a_logarithmic_axis_with_the_top_uppermost():
    survey = whole()
    figure = rank_curve(survey, by=None, draws=DRAWS)
    line, band = lines_of(figure)["all items"]
    drawn = curve(survey, "rank", draws=DRAWS).interval
    np.testing.assert_allclose(line.y, np.log10(drawn.estimate + 1))
    np.testing.assert_allclose(band[1].y, np.log10(drawn.high + 1))
    low, high = figure.layout.yaxis.range
    assert low > high
    assert min(low, high) < 0


def test_a_figure_names_the_lines_that_do_not_leave_their_control():
    survey = planted([-1, 3] * 20, ["never", "there"])
    assert "at no layer better than the control: never<br>" in subtitle(emergence_curve(survey, draws=DRAWS))  # fmt: skip
    assert "at no layer" not in subtitle(emergence_curve(survey, control=None, draws=DRAWS))
    assert "at no layer better than the control: all items" in subtitle(accuracy_curve(planted(FIRST, good=False), draws=DRAWS))  # fmt: skip
    assert "at no layer" not in subtitle(accuracy_curve(few(), draws=DRAWS))  # no intervals


def test_figures_and_pass_at_k_are_drawn_as_the_survey_was_told():
    survey = planted(FIRST, GROUPS, draws={"n_resamples": 300, "confidence": 0.8, "seed": 1})
    for figure in (accuracy_curve, rank_curve, emergence_curve, depth_histogram, survey_heatmap):
        assert "80% intervals, 300 resamples" in subtitle(figure(survey))
    told = pass_at_k(survey, draws=Draws(300, 0.8, 1))
    assert pass_at_k(survey).interval.low.tolist() == told.interval.low.tolist()
    assert pass_at_k(survey, draws=DRAWS).interval.low.tolist() != told.interval.low.tolist()


@pytest.mark.parametrize(
    "draws",
    [{"n": 1}, {"n_resamples": 10**12, "confidence": 0.9, "seed": 0}, {"n_resamples": 400, "confidence": 95, "seed": 0}],
)  # fmt: skip
def test_draws_that_cannot_be_are_no_survey_in_a_file(tmp_path, draws):
    path = tmp_path / "survey.json"
    as_survey(planted(FIRST, draws=draws)).save(path)
    with pytest.raises(lr.LensError, match="'draws'"):
        lr.Survey.load(path)


def test_ranks_are_held_against_their_control_by_the_median():
    """One item in ten is lost, further than all the others are ahead."""
    survey = planted([3] * 40)
    ranks = survey.ranks.copy()
    ranks[::10] = 90_000
    lost = dataclasses.replace(survey, ranks=ranks)
    found = beyond_control(lost, "rank", draws=DRAWS)
    assert found.difference.estimate[7] == -150
    assert found.is_beyond[7]


@pytest.mark.parametrize("metric", ["prob", "logit_diff", "kl", "agreement", "decided", "rank"])
def test_any_metric_is_drawn_with_a_control_where_it_has_one(metric):
    survey = whole()
    lines = lines_of(survey_curve(survey, metric, by=None, control="auto", draws=DRAWS))
    line, band = lines["all items"]
    drawn = curve(survey, metric, draws=DRAWS).interval
    scaled = (lambda ranks: np.log10(ranks + 1)) if metric == "rank" else np.asarray
    for trace, numbers in zip((line, *band), drawn[:3], strict=True):
        np.testing.assert_allclose(trace.y, scaled(numbers))
    has_control = metric not in ("kl", "agreement", "decided")
    assert ("control: shuffle" in lines) == has_control


def test_no_band_covers_a_line():
    names = [trace.name for trace in accuracy_curve(whole(), draws=DRAWS).data]
    assert names[:-1] == ["band"] * 6 + ["control: shuffle", "easy", "hard"]


def test_emergence_is_held_down_by_those_that_never_do():
    survey = planted([2] * 10 + [5] * 10 + [-1] * 20)
    figure = emergence_curve(survey, draws=DRAWS)
    line, band = lines_of(figure)["all items (never 50%)"]
    np.testing.assert_allclose(line.y, [0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5])
    assert line.x[-1] > 7
    assert line.line.shape == "hv"
    assert len(band) == 2
    assert "control: shuffle (never 100%)" in lines_of(figure)


def test_the_histogram_counts_each_item_once():
    survey = planted([2] * 10 + [5] * 10 + [-1] * 20, ["a", "b"])
    figure = depth_histogram(survey, draws=DRAWS)
    bars = [trace for trace in figure.data if trace.type == "bar" and trace.customdata]
    for trace in bars:
        np.testing.assert_allclose(trace.y, [0, 0, 0.25, 0, 0, 0.25, 0, 0, 0.5])
        assert trace.customdata[-1].startswith("<b>never</b>")
        assert "10 of 20" in trace.customdata[-1]
        assert len(trace.error_y.array) == N_LAYERS + 1
        assert max(trace.error_y.array) > 0
    assert len(bars) == 2
    assert figure.layout.xaxis2.ticktext[-1] == "never"
    controls = [trace for trace in figure.data if (trace.name or "").startswith("control")]
    assert len(controls) == 2
    assert controls[0].line.dash == "dash"
    assert controls[0].y[-1] == 1
    decision = depth_histogram(survey, of="decision", by=None, draws=DRAWS)
    bars = [trace for trace in decision.data if trace.type == "bar" and trace.customdata]
    # Items that never get there have the model's own answer, another token, from the start on.
    np.testing.assert_allclose(bars[0].y, [0.5, 0, 0.25, 0, 0, 0.25, 0, 0, 0])


def test_the_heatmap_has_groups_all_items_and_control():
    survey = whole()
    figure = survey_heatmap(survey, draws=DRAWS)
    assert list(figure.layout.yaxis.ticktext) == ["control: shuffle", "all items", "hard", "easy"]
    for row, group in ((1, None), (2, "hard"), (3, "easy")):
        drawn = curve(survey, "accuracy@1", group=group, draws=DRAWS).interval
        np.testing.assert_allclose(figure.data[0].z[row], drawn.estimate)
        assert cell_words(figure)[row][0] == "0°"  # no better than the control
        assert cell_words(figure)[row][7] == f"{100 * drawn.estimate[7]:.0f}"
        assert find_name("accuracy@1").interval(drawn.low[7], drawn.high[7]) in figure.data[0].customdata[row][7]  # fmt: skip
    for metric in ("rank", "logprob", "kl", "entropy", "agreement", "emerged", "reciprocal_rank", "logit_diff"):  # fmt: skip
        shown = survey_heatmap(survey, metric, draws=DRAWS)
        assert len(shown.layout.yaxis.ticktext) == (4 if find_name(metric).has_control else 3)


@pytest.mark.parametrize("view", ["accuracy", "rank", "emergence", "histogram"])
def test_few_clusters_have_no_bands_and_unreadable_layers_are_hatched(view):
    figure = FIGURES[view](few())
    assert not [trace for trace in figure.data if trace.name == "band"]
    if view != "histogram":
        assert "no interval" in lines_of(figure)["easy" if view != "emergence" else "easy (never 33%)"][0].customdata[0]  # fmt: skip
    hatched = [trace for trace in figure.data if (trace.name or "").startswith("hatched")]
    assert hatched
    assert all(list(trace.x) == [0, 1] for trace in hatched)


def test_many_groups_are_told_apart_and_the_rest_is_said():
    survey = planted([3] * 300, [f"{'long ' * 10}{i}" for i in range(30)])
    figure = accuracy_curve(survey, draws=DRAWS)
    names = [name for name in lines_of(figure) if not name.startswith("control")]
    assert len(set(names)) == 24
    assert "24 of 30 groups, the largest" in subtitle(figure)
    looks = {(line.line.color, line.line.dash) for line, _ in lines_of(figure).values()}
    assert len(looks) == 25
    assert figure.layout.legend.orientation != "h"


def test_a_comparison_marks_what_is_significant_after_correction():
    rng = np.random.default_rng(0)
    base = whole()
    shift = np.where(np.arange(N_LAYERS) == 5, 1.0, 0.0) + rng.normal(0, 0.5, base.logprobs.shape)
    other = dataclasses.replace(base, logprobs=(base.logprobs + shift).astype(np.float32), names=base.names[:40] + [n._replace(id=n.id + "x") for n in base.names[40:]])  # fmt: skip
    compared = compare_surveys(base, other, "logprob", draws=DRAWS)
    assert (compared.test.corrected_p < 0.05).nonzero()[0].tolist() == [5]
    table = comparison_table(compared, names=("base", "edited"))
    (marked,) = [line for line in table.splitlines() if re.match(r"\d .*\*", line)]
    assert marked.startswith("5")
    assert "Difference in log-probability: edited minus base" in table
    assert "40 pairs of items; left out: 16 items that only one of them has" in table
    figure = difference_curve(compared, names=("base", "edited"))
    full, empty = figure.data[-2:]
    assert list(full.x) == [5]
    assert full.marker.symbol == "circle"
    assert len(empty.x) == 7
    np.testing.assert_allclose(figure.data[0].y, compared.difference.low)
    np.testing.assert_allclose(figure.data[1].y, compared.difference.high)
    assert "40 pairs" in subtitle(figure)
    assert "corrected 0.0" in full.customdata[0]
    rows = json.loads(comparison_table(compared, format="json"))
    assert rows[5]["difference"] == pytest.approx(float(compared.difference.estimate[5]))
    for format in ("markdown", "latex", "tsv"):
        assert "corrected" in comparison_table(compared, format=format)
    halved = dataclasses.replace(base, sites=[Site(i) for i in range(16)], **{name: np.repeat(getattr(base, name), 2, 1) for name in ("ranks", "logprobs", "kl_to_final")})  # fmt: skip
    assert "paired by relative depth" in comparison_table(compare_surveys(base, halved, "logprob", draws=DRAWS))  # fmt: skip


def some_layers(survey: SurveyArrays, layers: list[int], **provenance) -> SurveyArrays:
    """The survey as it would be if only some layers had been read."""
    arrays = {}
    for name, axes in SURVEY_AXES.items():
        if axes[-1] == "site":
            arrays[name] = getattr(survey, name)[:, layers]
    known = survey.provenance | provenance
    return dataclasses.replace(survey, sites=[Site(i) for i in layers], provenance=known, **arrays)


def test_layers_of_one_model_are_held_against_the_same_and_those_of_others_by_depth():
    base, n = whole(), {"n_layers": N_LAYERS}
    first = some_layers(base, [1, 2, 3, 4], **n)
    compared = compare_surveys(first, some_layers(base, [3, 4, 7], **n), "logprob", draws=DRAWS)
    assert compared.sites == compared.other_sites == [Site(3), Site(4)]
    assert not compared.difference.estimate.any()
    with pytest.raises(ValueError, match="'agreement', 'emerged', 'decided'"):
        compare_surveys(first, first, "speed")
    with pytest.raises(ValueError, match="read no layer in common"):
        compare_surveys(first, some_layers(base, [5, 6], **n), "logprob", draws=DRAWS)
    deeper = some_layers(base, [0, 2, 4, 6], n_layers=15)  # layer i of 8 is layer 2 i of 15
    compared = compare_surveys(first, deeper, "logprob", draws=DRAWS)
    assert compared.other_sites == [Site(2), Site(4), Site(6)]  # layer 8 was not read
    assert compared.n_sites_alone == 1


def test_what_follows_the_stream_is_compared_beside_other_components():
    base = whole()
    doubled = {}
    for name, axes in SURVEY_AXES.items():
        if axes[-1] == "site":
            doubled[name] = np.repeat(getattr(base, name), 2, axis=1)
    sites = [Site(i, part) for i in range(N_LAYERS) for part in ("attn_out", "resid_post")]
    both = dataclasses.replace(base, sites=sites, **doubled)
    for metric in ("emerged", "decided"):
        compared = compare_surveys(both, base, metric, draws=DRAWS)
        assert compared.sites == base.sites
        assert not compared.difference.estimate.any()


def test_a_comparison_says_what_its_numbers_are():
    base, draws = whole(), Draws(400, 0.9)
    against = base.against_logprobs.copy()
    against[:5] = np.nan
    compared = compare_surveys(base, dataclasses.replace(base, against_logprobs=against), "logit_diff", draws=draws)  # fmt: skip
    assert (compared.n_pairs, compared.n_unpaired, compared.n_without) == (43, 0, 5)
    table = comparison_table(compared)
    assert "43 pairs of items; left out: 5 pairs without a logit difference" in table
    assert "90% intervals" in table
    assert "90% intervals" in subtitle(difference_curve(compared))
    shifted = dataclasses.replace(base, ranks=base.ranks + np.arange(48, dtype=np.int32)[:, None])
    ranks = compare_surveys(base, shifted, "rank", draws=draws)
    assert ranks.difference.estimate[0] == 23.5
    assert "Difference in mean rank" in comparison_table(ranks)
    assert difference_curve(ranks).layout.yaxis.title.text.startswith("difference in mean rank")


def test_a_comparison_shows_itself():
    base = as_survey(whole())
    other = as_survey(dataclasses.replace(base, logprobs=base.logprobs + np.float32(1)))
    compared = base.compare(other, "logprob")
    assert str(compared) == comparison_table(compared)
    assert "+1.00" in str(compared)
    assert compared.table(format="tsv", names=("a", "b")) == comparison_table(
        compared, format="tsv"
    )
    assert "Difference in log-probability" in compared._repr_html_()
    assert "SurveyDifference" in repr(compared)


def test_a_comparison_says_what_it_is_of_and_whether_that_is_certified():
    base = as_survey(whole())
    edit = ablate(layer=1, component="mlp_out")
    edited = as_survey(
        dataclasses.replace(
            base, certificate=None, provenance=base.provenance | {"edits": [edit.to_json()]}
        )
    )
    compared = base.compare(edited)
    first, other = run_words(base), run_words(edited)
    assert compared.runs == (first, other)
    assert first.endswith("logit lens, certified")
    assert str(edit) in other and other.endswith("not certified")  # noqa: PT018
    table = compared.table(names=("before", "after"))
    assert f"before: {first}" in table
    assert f"after: {other}" in table
    drawn = difference_curve(compared, names=("before", "after")).layout.title.subtitle.text
    assert "not certified" in html.unescape(drawn)
    assert f"both: {first}" in str(base.compare(base))


def test_layers_are_held_against_themselves_whichever_were_read():
    """Of one model: a layer that the other survey did not read is left out, and never paired with another."""
    model, items = shared("llama"), items_of(20)
    base = lr.survey(model, items)
    for layers, others in (([0, 1], None), (None, [0, 1]), ([1, 2, 3], [0, 1]), ([0, 2], [2, 3])):
        one, other = lr.survey(model, items, layers=layers), lr.survey(model, items, layers=others, seed=1)  # fmt: skip
        compared = one.compare(other, "logprob")
        shared_layers = sorted({site.layer for site in one.sites} & {site.layer for site in other.sites})  # fmt: skip
        assert [site.layer for site in compared.sites] == shared_layers
        assert compared.other_sites == compared.sites
        assert compared.n_sites_alone == len(one.sites) - len(shared_layers)
        np.testing.assert_allclose(compared.difference.estimate, 0, atol=1e-5)
        assert "relative depth" not in str(compared)
        assert ("both read these" in str(compared)) == (compared.n_sites_alone > 0)
    without = [as_survey(dataclasses.replace(each, provenance={**each.provenance, "n_layers": None})) for each in (lr.survey(model, items, layers=[0, 1]), base)]  # fmt: skip
    assert [str(site) for site in without[0].compare(without[1]).other_sites] == ["0", "1"]
    with pytest.raises(ValueError, match=r"no layer in common.*one read layers 0–1, the other layer 3"):  # fmt: skip
        lr.survey(model, items, layers=[0, 1]).compare(lr.survey(model, items, layers=[3]))


@pytest.mark.parametrize("components", ["head_out", ["resid_pre", "attn_out"]])
def test_what_has_no_line_of_layers_is_shown_in_tables_and_said_elsewhere(components, tmp_path):
    found = lr.survey(shared("llama"), items_of(12), components=components)
    assert len(found.table(format="tsv").splitlines()) > len(found.sites)
    frame = found.curve_frame()
    assert not {"emerged", "decided"} & set(frame["metric"])
    for view in (found.summary, found.pass_at_k, lambda: found.page(tmp_path / "page.html"), lambda: found.curve("emerged"), lambda: found.compare(found, "decided")):  # fmt: skip
        with pytest.raises(ValueError, match=r'components="resid_post" as well. The table shows'):
            view()


def test_models_of_other_depths_are_paired_where_both_were_read():
    sites, others = [Site(layer) for layer in range(4)], [Site(layer) for layer in range(12)]
    assert paired_sites(sites, others, 4, 12).tolist() == [0, 4, 7, 11]
    assert paired_sites(sites, others[6:], 4, 12).tolist() == [-1, -1, 1, 5]
    assert paired_sites(sites[:2], others, 4, 12).tolist() == [0, 4]


@pytest.mark.parametrize("metric", ["emerged", "decided"])
def test_what_follows_the_layers_is_compared_with_several_components(metric):
    model, items = shared("llama"), items_of(20)
    base = lr.survey(model, items)
    for components in (["resid_post", "attn_out"], ["head_out", "resid_post"]):
        several = lr.survey(model, items, components=components)
        for one, other in ((base, several), (several, base), (several, several)):
            compared = one.compare(other, metric)
            assert [str(site) for site in compared.sites] == ["0", "1", "2", "3"]
            np.testing.assert_array_equal(compared.difference.estimate, 0)


@pytest.mark.parametrize("metric", ["emerged", "decided"])
def test_what_stays_to_the_end_is_compared_on_the_layers_that_both_read(metric):
    """It is there at layers 2 and 3 alone, and so it stays to the end of a survey that ends with layer 3."""
    base = whole()
    is_on = np.isin(np.arange(N_LAYERS), (2, 3))
    ranks = np.where(is_on, 0, base.ranks + 1).astype(np.int32)
    tops = np.where(is_on, base.answer_ids[:, None], 99).astype(np.int32)
    passing = as_survey(dataclasses.replace(base, ranks=ranks, top_ids=tops))
    cut = {name: getattr(passing, name)[:, :4] for name, axes in SURVEY_AXES.items() if axes == ("item", "site")}  # fmt: skip
    short = as_survey(dataclasses.replace(passing, sites=passing.sites[:4], **cut))
    assert short.curve(metric).interval.estimate.tolist() == [0, 0, 1, 1]
    assert passing.curve(metric).interval.estimate.tolist() == [0] * N_LAYERS
    for one, other in ((short, passing), (passing, short)):
        compared = one.compare(other, metric)
        assert compared.difference.estimate.tolist() == [0, 0, 0, 0]


def test_a_comparison_counts_what_has_no_number_and_what_is_something_else():
    model, items = shared("llama"), items_of(30)
    base = lr.survey(model, items)
    n_without = sum("against" not in item for item in items)
    compared = base.compare(lr.survey(model, items, seed=1), "logit_diff")
    assert (compared.n_pairs, compared.n_without, compared.n_unpaired) == (30 - n_without, n_without, 0)  # fmt: skip
    assert f"left out: {n_without} pairs without a logit difference" in str(compared)
    assert compared.n_changed == 0
    others = lr.survey(model, [*items[:10], *items_of(30, seed=5)[10:]])
    compared = base.compare(others)
    assert compared.n_changed == 20
    words = "20 of 30 pairs have another prompt or target in each survey: they are paired by id"
    assert words in str(compared)
    assert words in difference_curve(compared).layout.title.subtitle.text.replace("<br>", " ")
    for other, metric in ((None, "rank"), ("base.json", "rank"), (base, ["rank"]), (base, "x")):
        with pytest.raises(ValueError, match=r"accepted is a survey|is unknown: accepted are"):
            base.compare(other, metric)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("draws", {"n_resamples": "many", "confidence": 0.9, "seed": 0}),
        ("draws", {"n_resamples": 10**12, "confidence": 0.9, "seed": 0}),
        ("draws", {"n_resamples": 200, "confidence": None, "seed": 0}),
        ("draws", {"n_resamples": 200, "confidence": 2, "seed": 0}),
        ("draws", {"n_resamples": 200, "confidence": 0.9, "seed": -1}),
        ("draws", {"seeds": 1}),
        ("draws", 5),
        ("shown", {"metrics": 5, "control": None}),
        ("shown", {"metrics": [], "control": None}),
        ("shown", {"metrics": ["loss"], "control": None}),
        ("shown", {"metrics": None, "control": "x"}),
        ("n_layers", "many"),
    ],
)
def test_a_file_that_says_no_draws_or_views_is_damaged(tmp_path, name, value):
    path = tmp_path / "survey.json"
    as_survey(whole()).save(path)
    stored = json.loads(path.read_text())
    stored["provenance"][name] = value
    path.write_text(json.dumps(stored))
    with pytest.raises(lr.LensError, match=f"'{name}' is .*, expected is"):
        lr.Survey.load(path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda survey: survey.table(metric=[]), "metric is empty: name one or more"),
        (lambda survey: survey.table(metric=5), "metric=5 is unknown: accepted are"),
        (lambda survey: survey.table(width="wide"), "width='wide' must be a whole number"),
        (lambda survey: survey.curve(["rank"]), r"metric=\['rank'\] is unknown: .*'decided'"),
        (lambda survey: survey.curve("decided", control="shuffle"), "decided looks at no answer"),
        (lambda survey: survey.compare(survey).table(names=None), "names=None must be two"),
        (lambda survey: survey.compare(survey).table(width=3), "width=3 must be .* at least 40"),
        (lr.table, r"received a survey: its table is made by its own method, survey\.table\(\)"),
        (lambda survey: lr.lens_evals(5), "received 5 as a path; accepted is that of a folder"),
        (lambda survey: lr.lens_evals("a" * 5000), "cannot be read: File name too long"),
        (lambda survey: survey.pass_at_k(layers=5), "layers=5 must be some of those that were"),
        (lambda survey: lr.pass_table({"a": survey, "b": 5}), "surveys must be a dict of surveys"),
    ],
)
def test_what_a_view_cannot_use_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call(as_survey(whole()))


# -- hostile texts ---------------------------------------------------------------------------------------------------------


def hostile_survey() -> SurveyArrays:
    """Every text of it is hostile."""
    survey = planted(FIRST, [f"{i}{text}" for i, text in enumerate([FIELD, *HOSTILE[:11]])], left_out=[(1, FIELD, FIELD, FIELD)], model=FIELD, revision=FIELD)  # fmt: skip
    names = [ItemNames(f"{i}{FIELD}", name.group, FIELD, FIELD) for i, name in enumerate(survey.names)]  # fmt: skip
    return dataclasses.replace(survey, names=names, texts=dict.fromkeys(survey.texts, FIELD))


def commands_of(line: str) -> list[str]:
    """The commands and the signs of a line of LaTeX on which TeX acts, in order; braces must be in pairs."""
    depth, found = 0, []
    for token in re.findall(r"\\[A-Za-z]+|\\.|[{}&$#^_~%]", line):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0, line
        found.append(token)
    assert depth == 0, line
    return found


SAFE = {
    r"\textbackslash", r"\{", r"\}", r"\$", r"\&", r"\#", r"\%", r"\_", r"\textasciicircum", r"\textasciitilde", r"\textless",
    r"\textgreater", r"\textbar", r"\textquotedblright", r"\textquoteleft", r"\textquoteright", r"\ldots", r"\textperiodcentered",
    r"\textendash", r"\textemdash", r"\textvisiblespace", r"\texttt", r"\circ", r"\langle", r"\rangle", r"\hookleftarrow",
    r"\mapsto", r"\rightarrow", r"\leftarrow", r"\times", r"\emptyset", r"\|", "{", "}", "$", "^",
}  # fmt: skip


@pytest.mark.parametrize("text", [FIELD, *HOSTILE, r"\input{/etc/passwd}", "a & b \\\\", "[2pt]", "*", "^^41", "%", "--", "?`", "``", "𝔘中"])  # fmt: skip
def test_latex_shows_any_text_and_acts_on_none(text):
    written = latex_text(text)
    found = commands_of(written)
    assert set(found) <= SAFE
    assert "\n" not in written
    assert found.count("$") % 2 == 0
    outside = re.sub(r"\$\^\\circ\$|\$[^$]*\$", "", re.sub(r"\\[&$#_%{}]", "", written))
    assert not set("&$#^_~%") & set(outside)
    assert not re.search(r"--|``|''|\?`|!`", written)
    assert not written.startswith(("[", "*"))


def test_latex_tables_have_as_many_cells_in_each_row():
    for options in ({"by": "group"}, {}, {"metric": "kl"}):
        document = survey_table(hostile_survey(), format="latex", draws=DRAWS, **options)
        body = document.split(r"\toprule")[1].split(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        columns = re.search(r"\\begin\{tabular\}\{(l r*|lr*)\}", document).group(1)
        assert len(rows) == N_LAYERS + 1
        for row in rows:
            assert commands_of(row[:-2]).count("&") == len(columns) - 1
        for name in ("table", "tabular"):
            assert document.count(rf"\begin{{{name}}}") == document.count(rf"\end{{{name}}}") == 1
        assert r"\input" not in document
        assert "\\caption{" in document
        assert "booktabs" in document.splitlines()[0]


def test_hostile_names_act_in_no_view(tmp_path):
    survey = hostile_survey()
    for view in FIGURES.values():
        assert_inert(view(survey))
    assert_inert(difference_curve(compare_surveys(survey, survey, "kl", draws=DRAWS), names=(FIELD, FIELD)))  # fmt: skip
    markdown = survey_table(survey, by="group", format="markdown", draws=DRAWS)
    tags = set(re.findall(r"<(\w+)", MarkdownIt("commonmark").enable("table").render(markdown)))
    assert tags <= {"p", "table", "thead", "tbody", "tr", "th", "td", "code", "br"}
    for text in (survey_table(survey, by="group", draws=DRAWS), survey_summary(survey, DRAWS)):
        assert not set("\x00\u202e\x1b\t") & set(text)
    rows = csv.DictReader(io.StringIO(survey_table(survey, by="group", format="tsv", draws=DRAWS)), dialect="excel-tab", strict=True)  # fmt: skip
    assert not [value for row in rows for key, value in row.items() if key in ("group", "model") and value.startswith(("=", "+", "@"))]  # fmt: skip


# -- the page --------------------------------------------------------------------------------------------------------------


def page_data(path):
    text = path.read_text()
    (data,) = re.findall(
        r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL
    )
    return text, json.loads(data)


def test_the_page_holds_at_most_five_hundred_items_and_says_so(tmp_path):
    survey_page(
        planted([3, 5] * 600, GROUPS, left_out=LEFT_OUT), tmp_path / "many.html", draws=DRAWS
    )
    text, data = page_data(tmp_path / "many.html")
    assert len(data["items"]) == 500
    assert "500 of 1200 items, spread evenly over all of them" in text
    assert data["items"][0]["id"] == "id0"
    assert data["items"][-1]["id"] == "id1199"
    item = data["items"][-1]
    assert item["emerges"] == "5"
    assert item["ranks"] == [40] * 5 + [0] * 3
    assert data["groups"] == GROUPS
    assert len(text.encode()) < 7e6
    assert "left out: 3 of 1203 items" in text
    assert "Ulan" in text
    with pytest.raises(ValueError, match=r"\.html"):
        survey_page(whole(), tmp_path / "survey.png")


def test_items_open_at_a_click_and_hostile_texts_do_nothing(tmp_path):
    survey_page(hostile_survey(), tmp_path / "page.html", draws=DRAWS)
    survey_page(whole(), tmp_path / "plain.html", draws=DRAWS)
    wrong, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "plain.html").as_uri())
        page.select_option("#group", "0")
        page.select_option("#order", "worst rank first")
        assert page.inner_text("#matched") == "24 of 48"
        ranks = page.locator("#items > tbody > tr > td.number:nth-child(6)").all_inner_texts()
        assert ranks == sorted(ranks, key=int, reverse=True)
        assert ranks[0] == "40"
        page.click("#items > tbody > tr:last-child button")
        detail = page.locator(".detail")
        assert detail.locator(".inner tbody tr").count() == N_LAYERS
        assert detail.locator(".unreadable").count() == 2
        assert "·Paris" in detail.inner_text()
        page.click("#items > tbody > tr.open button")
        assert page.locator(".detail").count() == 0
        page.goto((tmp_path / "page.html").as_uri())
        page.click("#items > tbody > tr:first-child button")
        assert not page.evaluate("window.acted")
        assert page.locator(".detail a, .detail img, .detail script").count() == 0
        browser.close()
    assert not wrong
    assert {url.split(":")[0] for url in asked} == {"file"}


# -- arguments -------------------------------------------------------------------------------------------------------------


def test_wrong_arguments_say_what_is_accepted():
    survey = whole()
    wrong = [
        lambda: survey_table(survey, metric="acc"),
        lambda: survey_table(survey, metric=["kl", "entropy"], by="group"),
        lambda: survey_table(survey, by="layer"),
        lambda: survey_table(survey, group="none such"),
        lambda: survey_table(survey, control="best"),
        lambda: survey_table(survey, format="html"),
        lambda: survey_table(survey, format="tsv", width=80),
        lambda: survey_table(survey, width=10),
        lambda: survey_table(survey, component="mlp_out"),
        lambda: accuracy_curve(survey, k=3),
        lambda: accuracy_curve(survey, by="template"),
        lambda: rank_curve(survey, control="best"),
        lambda: depth_histogram(survey, of="rank"),
        lambda: survey_heatmap(survey, "acc"),
        lambda: comparison_table(compare_surveys(survey, survey, "kl", draws=DRAWS), format="html"),
        lambda: comparison_table(compare_surveys(survey, survey, "kl", draws=DRAWS), names="ab"),
        lambda: curve_frame(survey, metric="acc"),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match=r"\w"):
            call()


def test_a_curve_of_differences_wants_a_comparison():
    for given in (as_survey(whole()), 5):
        with pytest.raises(TypeError, match=r"expected what compare\(\) of two surveys returns"):
            difference_curve(given)


def test_a_figure_of_a_survey_wants_one():
    for figure in FIGURES.values():
        with pytest.raises(TypeError, match="expected Survey"):
            figure(generation())
    with pytest.raises(TypeError, match="accuracy_curve, emergence_curve"):
        lr.heatmap(whole())
    with pytest.raises(ValueError, match=r'survey\.page\("survey.html"\)'):
        lr.report(whole(), "survey.html")


@pytest.mark.parametrize("module", [survey_names, latex, comparison])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
