"""The nested bootstrap and the verdicts, on data whose answer is known."""

import numpy as np
import pandas as pd
import pytest

import probes
from experiments.claims import CLAIMS, judge, verdict
from experiments.statistics import Bootstrap, benjamini_hochberg, panel_of


def test_means_and_effects_are_those_of_the_data():
    rng = np.random.default_rng(0)
    panel, base = rng.random((3, 10, 2)), rng.random((1, 10, 2))
    bootstrap = Bootstrap((3, 10, 2), 2000, seed=0)
    assert bootstrap.mean(panel).estimate == pytest.approx(panel.mean())
    assert bootstrap.difference(panel, base).estimate == pytest.approx(panel.mean() - base.mean())
    assert bootstrap.fold(panel, base).estimate == pytest.approx(base.mean() / panel.mean())
    assert bootstrap.mean(base).seeds == 1
    assert bootstrap.difference(panel, base).seeds == 3
    np.testing.assert_allclose(bootstrap.means(np.ones((3, 10, 2))), 1)


def test_resamples_are_paired_across_arms():
    rng = np.random.default_rng(0)
    base = rng.random((1, 30, 1)) * 100  # families differ wildly
    bootstrap = Bootstrap((2, 30, 1), 2000, seed=0)
    effect = bootstrap.difference(np.repeat(base - 0.5, 2, 0), base)
    assert (effect.low, effect.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert bootstrap.mean(base).high - bootstrap.mean(base).low > 10


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    bootstrap = Bootstrap((4, 40, 2), 500, seed=0)
    covered = 0
    for _ in range(200):
        panel = rng.normal(size=(1, 40, 1)) + 0.5 * rng.normal(size=(4, 40, 2))
        effect = bootstrap.mean(panel)
        covered += effect.low <= 0 <= effect.high
    assert 0.89 <= covered / 200 <= 0.99


def test_variation_between_seeds_widens_the_interval():
    rng = np.random.default_rng(0)
    families = rng.normal(size=(1, 40, 1))
    shift = np.array([-2.0, -1.0, 1.0, 2.0])[:, None, None]
    bootstrap = Bootstrap((4, 40, 1), 2000, seed=0)
    quiet, loud = bootstrap.mean(np.repeat(families, 4, 0)), bootstrap.mean(families + shift)
    assert loud.high - loud.low > 2 * (quiet.high - quiet.low)


def test_p_values_are_small_for_an_effect_and_uniform_without():
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap((1, 40, 1), 1000, seed=0)
    null = [
        bootstrap.difference(rng.normal(size=(1, 40, 1)), np.zeros((1, 40, 1))).p
        for _ in range(200)
    ]
    assert 0.01 < np.mean(np.array(null) < 0.05) < 0.12
    assert (
        bootstrap.difference(rng.normal(1, 0.1, size=(1, 40, 1)), np.zeros((1, 40, 1))).p <= 0.002
    )
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03]), [0.03, 0.04, 0.04])


def test_a_panel_with_a_hole_is_refused():
    rows = pd.DataFrame({"seed": [0, 0, 1, 1], "family": list("abab"), "value": [1.0, 2, 3, 4]})
    panel, families = panel_of(rows, "value")
    assert panel.tolist() == [[[1.0], [2.0]], [[3.0], [4.0]]]
    assert families == ["a", "b"]
    with pytest.raises(probes.DataError, match="3 rows do not fill 2 × 2 seed × family"):
        panel_of(rows.iloc[:3], "value")


@pytest.mark.parametrize(
    ("low", "high", "side", "expected"),
    [
        (-2, -1, "below", "supported"),
        (-1, 1, "below", "inconclusive"),
        (1, 2, "below", "contradicted"),
        (1, 2, "above", "supported"),
        (-2, -1, "above", "contradicted"),
        (-1, 1, "above", "inconclusive"),
    ],
)
def test_verdicts(low, high, side, expected):
    assert verdict(low, high, side, 0.0) == expected


def test_claims_are_judged_from_their_own_row():
    columns = ["measure", "arm", "reference", "kind", "estimate", "low", "high"]
    effects = pd.DataFrame(
        [("propensity", "story", "refusal", "difference", -0.2, -0.3, -0.1)], columns=columns
    )
    found = judge(effects)
    assert found.id.tolist() == ["C1"]
    assert found.verdict.tolist() == ["supported"]
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
