"""Intervals, medians and permutation tests, against scipy and on simulated data of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lens_recipes.arrays.statistics.labels import label_test
from lens_recipes.arrays.statistics.median import median
from lens_recipes.arrays.statistics.permutation import sign_flip_test
from lens_recipes.arrays.statistics.quantiles import student_quantile
from lens_recipes.arrays.statistics.resampling import Resampling, expanded_tail

TRIALS = 1500


def covered(draw, truth, *, statistic="mean", clusters=None):
    """The share of intervals that hold the truth, over many samples at once: one column each."""
    generator = np.random.default_rng(7)
    samples = np.stack([draw(generator) for _ in range(TRIALS)], axis=1)
    resampling = Resampling(len(samples), clusters, n_resamples=1000, seed=3)
    interval = resampling.mean(samples) if statistic == "mean" else median(samples, resampling)
    return float(np.mean((interval.low <= truth) & (truth <= interval.high)))


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995, 0.01])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 30, 199, 200, 201, 5000])
def test_students_quantile_is_that_of_scipy(probability, degrees):
    expected = stats.t.ppf(probability, degrees)
    assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda generator: generator.normal(size=20), 0.0),
        (lambda generator: (generator.random(60) < 0.3).astype(float), 0.3),
        (lambda generator: generator.uniform(size=30), 0.5),
    ],
    ids=["normal", "share", "uniform"],
)
def test_intervals_of_means_cover_what_they_promise(draw, truth):
    assert 0.93 <= covered(draw, truth) <= 0.97


def test_intervals_of_medians_cover_what_they_promise():
    share = covered(lambda generator: generator.exponential(size=61), np.log(2), statistic="median")
    assert 0.93 <= share <= 0.975


CLUSTERS = np.repeat(np.arange(25), 8)


def templated(generator):
    """Items of 25 templates that say nearly the same within each."""
    return generator.normal(size=200) * 0.3 + np.repeat(generator.normal(size=25), 8)


def test_clusters_are_drawn_whole_and_naive_intervals_are_too_narrow():
    assert 0.93 <= covered(templated, 0.0, clusters=CLUSTERS.tolist()) <= 0.97
    assert covered(templated, 0.0) < 0.7


def test_an_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=80)
    own = Resampling(80, n_resamples=20_000, seed=1).mean(values[:, None])
    level = 1 - 2 * expanded_tail(0.95, 80)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=2
    ).confidence_interval
    assert own.estimate[0] == pytest.approx(values.mean(), rel=1e-12)
    assert own.low[0] == pytest.approx(theirs.low, rel=0.01)
    assert own.high[0] == pytest.approx(theirs.high, rel=0.01)


@pytest.mark.parametrize("n", [11, 60])
def test_an_exact_interval_of_a_median_is_that_of_many_resamples(n):
    values = np.random.default_rng(5).normal(size=n)
    own = median(values[:, None], Resampling(n))
    generator = np.random.default_rng(6)
    drawn = values[generator.integers(0, n, (200_000, n))]
    medians = np.sort(drawn, axis=1)[:, (n + 1) // 2 - 1]
    tail = expanded_tail(0.95, n)
    low, high = np.quantile(medians, [tail, 1 - tail], method="inverted_cdf")
    assert (own.low[0], own.high[0]) == (low, high)


def test_an_interval_of_a_median_of_clusters_is_that_of_each_resample():
    """Of thousands of different values, as ranks are: to a hundredth of the interval."""
    generator = np.random.default_rng(4)
    clusters = np.repeat(np.arange(150), 20)
    values = np.exp(generator.normal(size=150)[clusters] + generator.normal(size=3000) + 5)
    resampling = Resampling(3000, clusters.tolist())
    own = median(values[:, None], resampling)
    order = np.argsort(values)
    drawn = []
    for counts in resampling.counts():
        so_far = counts[:, clusters[order]].cumsum(1)
        drawn.append(values[order][(2 * so_far >= so_far[:, -1:]).argmax(1)])
    tail = expanded_tail(0.95, 150)
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail], method="inverted_cdf")
    width = high - low
    assert own.estimate[0] == np.sort(values)[1499]
    np.testing.assert_allclose([own.low[0], own.high[0]], [low, high], atol=width / 50)


def test_a_median_of_clusters_is_drawn_by_clusters():
    values = np.repeat(np.random.default_rng(2).normal(size=25), 8)[:, None]
    clustered = median(values, Resampling(200, CLUSTERS.tolist()))
    naive = median(values, Resampling(200))
    assert clustered.estimate == naive.estimate
    assert clustered.high - clustered.low > 1.5 * (naive.high - naive.low)


def test_the_same_draws_for_all_that_is_compared():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(40, 1)) * 10
    other = base + 1
    resampling = Resampling(40, seed=4)
    difference = resampling.mean(other - base)
    assert difference.low[0] == pytest.approx(1)
    assert difference.high[0] == pytest.approx(1)
    drawn = resampling.resampled_means(base), resampling.resampled_means(other)
    np.testing.assert_allclose(drawn[1] - drawn[0], 1, atol=1e-4)


def test_missing_values_are_left_out_of_their_own_statistic_alone():
    values = np.arange(12.0).reshape(6, 2)
    values[0, 0] = np.nan
    interval = Resampling(6).mean(values)
    np.testing.assert_allclose(
        interval.estimate, [np.mean([2, 4, 6, 8, 10]), np.mean(values[:, 1])]
    )
    assert interval.n.tolist() == [5, 6]
    assert np.isfinite(interval.low).all()


def test_few_clusters_have_no_interval():
    interval = Resampling(100, [number % 4 for number in range(100)]).mean(np.ones((100, 1)))
    assert interval.estimate[0] == 1
    assert np.isnan(interval.low[0])
    assert np.isnan(interval.high[0])


def test_p_values_are_uniform_where_nothing_is_to_be_found():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(30, 800))
    p = np.sort(sign_flip_test(noise, n_permutations=999, seed=1).p)
    # All columns share their signs, so the p-values depend on each other a little.
    assert stats.kstest(p, "uniform").statistic < 0.08


def test_a_p_value_is_that_of_scipy():
    differences = np.random.default_rng(3).normal(0.4, 1, 14)
    own = sign_flip_test(differences[:, None], n_permutations=20_000, seed=1).p[0]

    def size_of_t(values, axis):
        return np.abs(stats.ttest_1samp(values, 0, axis=axis).statistic)

    exact = stats.permutation_test(
        (differences,),
        size_of_t,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
        vectorized=True,
    ).pvalue
    assert own == pytest.approx(exact, rel=0.1)


def test_one_false_alarm_among_many_layers_is_as_rare_as_the_corrected_p_says():
    generator = np.random.default_rng(1)
    smallest = []
    for trial in range(200):
        common = generator.normal(size=(20, 1))
        noise = common + generator.normal(size=(20, 10))
        smallest.append(sign_flip_test(noise, n_permutations=199, seed=trial).corrected_p.min())
    assert 0.02 <= np.mean(np.array(smallest) <= 0.05) <= 0.09


def test_a_p_value_of_two_groups_is_that_of_scipy():
    values = np.random.default_rng(5).normal(size=40)
    groups = np.arange(40) % 2
    values[groups == 1] += 0.5

    def distance(first, other, axis):
        return np.abs(first.mean(axis) - other.mean(axis))

    expected = stats.permutation_test(
        (values[groups == 0], values[groups == 1]),
        distance,
        n_resamples=20_000,
        alternative="greater",
        vectorized=True,
        rng=6,
    ).pvalue
    found = label_test(values, groups, n_permutations=10_000, seed=1)
    np.testing.assert_allclose(found, expected, rtol=0.1)


@pytest.mark.parametrize("labels_are", ["of clusters", "of items"])
def test_one_false_alarm_among_groups_is_as_rare_as_p_says(labels_are):
    """In clusters of one group each, and in clusters that have items of all groups."""
    generator = np.random.default_rng(2)
    clusters = np.repeat(np.arange(24), 4)
    groups = (clusters if labels_are == "of clusters" else np.arange(96)) % 4
    smallest = []
    for trial in range(200):
        values = generator.normal(size=24)[clusters] + generator.normal(size=96) / 2
        p = label_test(values, groups, clusters.tolist(), n_permutations=199, seed=trial)
        smallest.append(p.min())
    assert 0.02 <= np.mean(np.array(smallest) <= 0.05) <= 0.09


def test_a_difference_that_is_there_is_found():
    generator = np.random.default_rng(1)
    values = generator.normal(size=(40, 5))
    values[:, 3] += 1
    test = sign_flip_test(values, seed=0)
    assert test.corrected_p[3] < 0.01
    assert (test.corrected_p >= test.p).all()


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="confidence"):
        Resampling(10, confidence=95)
    with pytest.raises(ValueError, match="bootstrap"):
        Resampling(10, n_resamples=5)
    with pytest.raises(ValueError, match="clusters for 10 items"):
        Resampling(10, [1, 2])
