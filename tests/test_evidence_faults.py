"""Faults that evidence could have and still look right: each test fails if one of them slips in."""

import numpy as np
import pytest
import torch

import probes
from probes.controls import (
    bag_of_words_scores,
    control_labels,
    random_direction_areas,
    shuffled_labels,
    split_half_reliability,
)
from probes.fitting import out_of_fold_scores
from probes.folds import grouped_folds
from probes.metrics import (
    auroc,
    bootstrap_auroc,
    bootstrap_mean,
    calibration_error,
    family_weights,
    interval,
    widened,
)
from tests.test_probes import planted
from tests.test_probes_faults import signatures

MEANS = "difference_of_means"
QUICK = {"permutations": 0, "random_directions": 0, "halves": 0, "resamples": 100}


def evaluated(acts, labels, groups, method=MEANS, **options):
    probe = probes.fit(acts, labels, groups=groups, method=method, layer=acts.layers[0])
    return probes.evaluate(probe, acts, labels, groups=groups, **{**QUICK, **options})


def cloned(acts, labels, groups, *more, times=6):
    """Every text several times over: more texts and no more knowledge."""
    rows = [k for k in range(len(acts)) for _ in range(times)]
    return acts.select(rows), *([column[k] for k in rows] for column in (labels, groups, *more))


def test_copies_of_texts_make_no_interval_narrower():
    acts, labels, groups, _ = planted(families=30, size=1.0)
    once, often = (
        evaluated(*data) for data in ((acts, labels, groups), cloned(acts, labels, groups))
    )
    for name in ("auroc", "accuracy", "within_pair"):
        for bound in ("value", "low", "high"):
            found = getattr(getattr(often, name), bound)
            assert found == pytest.approx(getattr(getattr(once, name), bound), abs=2e-3)
    for name in ("AUROC", "accuracy", "within-pair accuracy", "Brier score"):
        figures = [(f.low, f.value, f.high) for f in (once.report[name], often.report[name])]
        assert figures[1] == pytest.approx(figures[0], abs=2e-3)


def test_copies_of_texts_make_no_interval_of_a_transfer_narrower():
    acts, labels, groups, _ = planted(families=40, size=1.0)
    domains = ["a" if k // 2 % 2 else "b" for k in range(80)]
    found = []
    for data in ((acts, labels, groups, domains), cloned(acts, labels, groups, domains)):
        probe = probes.fit(*data[:2], groups=data[2], method=MEANS, layer=0)
        found.append(
            probes.transfer(probe, *data[:2], groups=data[2], domains=data[3], resamples=100)
        )
    for name in ("auroc", "low", "high"):
        np.testing.assert_allclose(getattr(found[1], name), getattr(found[0], name), atol=2e-3)


def test_intervals_of_cross_validated_figures_are_widened():
    acts, labels, groups, _ = planted(families=40, size=1.0)
    y = np.array(labels)
    found = evaluated(acts, labels, groups, resamples=2000)
    scores = out_of_fold_scores(acts.values, y[None], groups, MEANS)[0]
    weights = family_weights(40, 2000, np.random.default_rng(1))
    plain = interval(bootstrap_auroc(scores, y, groups, weights))
    ours = found.auroc.high - found.auroc.low
    assert ours == pytest.approx(1.5 * (plain[1] - plain[0]), rel=0.1)  # √(1 + 5/4)
    assert widened(np.array([0.7]), np.array([[0.6], [0.9]]), 5)[:, 0] == pytest.approx([0.55, 1.0])
    assert interval(np.linspace(0, 1, 1001)) == pytest.approx([0.025, 0.975])


def test_bootstrap_means_weigh_texts_and_draw_families_with_replacement():
    values, groups = np.array([[1.0], [1.0], [1.0], [0.0]]), ["a", "a", "a", "b"]
    assert bootstrap_mean(values, groups, np.ones((1, 2)))[0, 0] == 0.75
    weights = family_weights(50, 400, np.random.default_rng(0))
    assert (weights.sum(1) == 50).all()
    assert weights.var() == pytest.approx(1, abs=0.1)  # Poisson's, nearly


def test_families_of_one_class_exchange_it_as_wholes():
    labels, groups = np.array([0, 1, 1, 1, 0, 0]), ["a", "a", "b", "b", "c", "c"]
    shuffled = shuffled_labels(labels, groups, 60, np.random.default_rng(0))
    assert (shuffled.sum(1) == 3).all()
    assert ((shuffled.mean(0) > 0) & (shuffled.mean(0) < 1)).all()
    assert (shuffled[:, 2] == shuffled[:, 3]).all()
    assert (shuffled[:, 4] == 1 - shuffled[:, 2]).all()


def test_labels_of_last_words_are_drawn_word_by_word():
    tasks = control_labels(["a night", "once again", "dogs", "cats"], 60, np.random.default_rng(0))
    agree = (tasks[:, :, None] == tasks[:, None, :]).mean(0)[~np.eye(4, dtype=bool)]
    assert ((agree > 0.2) & (agree < 0.8)).all()


def test_labels_shuffled_inside_families_stay_there_when_families_are_interleaved():
    labels, groups = np.array([0, 0, 1, 1, 1, 0, 0, 0]), np.array(list("abababaa"))
    shuffled = shuffled_labels(labels, groups.tolist(), 60, np.random.default_rng(0))
    assert (shuffled[:, groups == "a"].sum(1) == 2).all()
    assert (shuffled[:, groups == "b"].sum(1) == 1).all()
    assert ((shuffled.mean(0) > 0) & (shuffled.mean(0) < 1)).all()


@pytest.mark.parametrize("matched", ["covariance", "norm"])
def test_random_directions_do_not_see_where_the_activations_lie(matched):
    values = torch.randn(80, 2, 20, generator=torch.Generator().manual_seed(0))
    labels, far = np.arange(80) % 2, values + 20 * torch.eye(20)[0]
    near, moved = (
        random_direction_areas(x, labels, 50, np.random.default_rng(0), matched=matched)
        for x in (values, far)
    )
    np.testing.assert_allclose(moved, near, atol=0.01)


def test_the_word_floor_sees_pairs_of_words_and_no_test_text():
    labels = np.arange(80) % 2
    groups = [str(k // 2) for k in range(80)]
    order = [("man bites dog" if label else "dog bites man") for label in labels]
    assert auroc(bag_of_words_scores(order, labels, groups)[:, None], labels)[0] > 0.99
    own = [f"w{k}" for k in range(80)]  # only a classifier that has read them could tell
    assert abs(auroc(bag_of_words_scores(own, labels, groups)[:, None], labels)[0] - 0.5) < 0.3


def test_halves_share_no_family():
    """Families that agree with themselves alone give no reliable direction."""
    values, labels, groups = signatures(families=24, width=60)
    found = split_half_reliability(values, np.array(labels), groups, MEANS, splits=20)
    assert abs(found[0]) < 0.5


def test_one_false_positive_in_a_hundred_is_counted_on_the_neutral_texts():
    acts, labels, groups, truth = planted(families=40, layers=1, size=12.0)
    found = {}
    for outliers in (1, 6):  # of two hundred
        values = torch.randn(200, 1, 24, generator=torch.Generator().manual_seed(1))
        values[:outliers] += 100 * truth
        neutral = probes.Activations(values, (0,))
        report = evaluated(acts, labels, groups, neutral=neutral).report
        found[outliers] = report["TPR at 1 % FPR on neutral text"].value
    assert found == {1: 1.0, 6: 0.0}


def test_the_fewer_the_neutral_texts_the_less_sure_is_their_threshold():
    acts, labels, groups, _ = planted(families=40, layers=1, size=3.0)
    once = torch.randn(100, 1, 24, generator=torch.Generator().manual_seed(1))
    widths = []
    for values in (once, once.repeat(20, 1, 1)):
        neutral = probes.Activations(values, (0,))
        found = evaluated(acts, labels, groups, neutral=neutral).report
        rate = found["TPR at 1 % FPR on neutral text"]
        widths.append(rate.high - rate.low)
    assert widths[0] > 1.15 * widths[1]  # equal, were the threshold taken for known


def test_neutral_texts_must_be_many_and_measured_the_same_way():
    acts, labels, groups, _ = planted(families=20)
    few, other = (
        probes.Activations(torch.randn(n, 3, 24), (0, 1, 2), model=model)
        for n, model in ((99, ""), (100, "another"))
    )
    with pytest.raises(probes.DataError, match="99 neutral texts"):
        evaluated(acts, labels, groups, neutral=few)
    with pytest.raises(probes.DataError, match="measured on another model"):
        evaluated(acts, labels, groups, neutral=other)


def test_probabilities_are_calibrated_on_held_out_texts_of_the_selection_half():
    """Noise: calibrating where it is reported falls below 1/4, calibrating on training texts far above."""
    found = []
    for seed in range(12):
        acts, labels, groups, _ = planted(families=40, layers=1, width=60, size=0.0, seed=seed)
        found.append(evaluated(acts, labels, groups, resamples=10).report["Brier score"].value)
    assert 0.251 < np.mean(found) < 0.28


def test_the_accuracy_is_that_of_the_probes_own_threshold():
    acts, labels, groups, _ = planted(families=80, size=6.0)
    rows = [k for k in range(160) if labels[k] or k % 8 == 0]
    found = evaluated(acts.select(rows), [labels[k] for k in rows], [groups[k] for k in rows])
    assert found.accuracy.value.min() > 0.95
    assert found.report["accuracy"].value > 0.95


def test_families_of_one_class_have_no_pairs_to_rank():
    acts, labels, groups, _ = planted(families=40, size=6.0)
    rows = [k for k in range(80) if k < 40 or labels[k] == k // 2 % 2]
    found = evaluated(acts.select(rows), [labels[k] for k in rows], [groups[k] for k in rows])
    assert found.within_pair.value.min() > 0.95


def test_nothing_is_selective_where_words_can_be_told_apart():
    """The control tasks are solvable at the selected layer, so the probe's success there says little."""
    acts, labels, groups, _ = planted(families=40, layers=2, size=6.0)
    acts.values[:, 0] = torch.randn(80, 24, generator=torch.Generator().manual_seed(2))
    words = [f"w{k // 2 % 4}" for k in range(80)]
    for row, word in enumerate(words):
        acts.values[row, 1, int(word[1])] += 40.0
    found = evaluated(acts, labels, groups, method="lda", texts=[f"it was {w}." for w in words])
    assert found.selected_layer == 1
    assert abs(found.selectivity) < 0.1


def test_the_p_value_is_that_of_the_best_layer():
    acts, labels, groups, _ = planted(families=40, layers=20, size=0.0)
    acts.values[:, 3, 0] += 5.0 * torch.tensor(labels)
    found = evaluated(acts, labels, groups, permutations=19)
    assert found.p_value("shuffled labels") == pytest.approx(1 / 20)


def test_the_calibration_error_weighs_bins_by_their_texts():
    probabilities, labels = np.repeat([0.2, 0.8], [30, 10]), np.repeat([1, 1], [30, 10])
    found = calibration_error(probabilities, labels, np.ones((1, 40)), bins=4)
    assert found[0] == pytest.approx(0.75 * 0.8 + 0.25 * 0.2)
    mixed = np.random.default_rng(0).permutation(40)
    again = calibration_error(probabilities[mixed], labels[mixed], np.ones((1, 40)), bins=4)
    assert again[0] == pytest.approx(found[0])
    opposed = np.array([1] * 20 + [0] * 20)  # right on average, wrong in both halves
    halves = calibration_error(np.linspace(0.4, 0.6, 40), opposed, np.ones((1, 40)), bins=2)
    assert halves[0] == pytest.approx(0.55, abs=0.01)


def test_a_transfer_has_its_training_domain_in_the_row():
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(400, 1, 8, generator=generator), torch.arange(400) % 2
    domains = ["plain" if k // 2 % 2 else "rich" for k in range(400)]
    values[:, 0, 0] += 3.0 * labels
    rich = torch.tensor([name == "rich" for name in domains])
    values[:, 0, 1] += 9.0 * labels * rich
    acts, groups = probes.Activations(values, (0,)), [f"f{k // 4}" for k in range(400)]
    probe = probes.fit(acts, labels, groups=groups, method=MEANS)
    found = probes.transfer(probe, acts, labels, groups=groups, domains=domains, resamples=50)
    area = dict(zip(found.domains, found.auroc, strict=True))
    assert area["plain"][found.domains.index("rich")] > 0.95
    assert area["rich"][found.domains.index("plain")] < 0.85


def test_a_transfer_reads_distances_from_the_boundary_of_every_folds_own_probe():
    acts, labels, groups, _ = planted(families=24, layers=1, size=1.0)
    acts, y = probes.Activations(acts.values + 10, (0,)), np.array(labels)
    domains = np.array(["a" if k // 2 % 2 else "b" for k in range(48)])
    probe = probes.fit(acts, labels, groups=groups, method="lda", layer=0)
    found = probes.transfer(
        probe, acts, labels, groups=groups, domains=domains.tolist(), folds=3, resamples=400
    )
    for row, name in enumerate(found.domains):
        scores = np.empty((48, 1))
        for train, test in grouped_folds(groups, 3, 0):
            rows = [k for k in train.tolist() if domains[k] == name]
            own = [groups[k] for k in rows]
            fold = probes.fit(acts.select(rows), y[rows], groups=own, method="lda", layer=0)
            scores[test] = fold.scores(acts.select(test.tolist()))
        for column, other in enumerate(found.domains):
            here = np.flatnonzero(domains == other)
            assert found.auroc[row, column] == pytest.approx(auroc(scores[here], y[here])[0])
            weights = family_weights(12, 2000, np.random.default_rng(1))
            own = [groups[k] for k in here]
            bounds = interval(bootstrap_auroc(scores[here], y[here], own, weights))
            expected = widened(found.auroc[row, [column]], bounds, 3)[:, 0]
            assert found.low[row, column] == pytest.approx(expected[0], abs=0.06)
            assert found.high[row, column] == pytest.approx(expected[1], abs=0.06)


def test_a_comparison_takes_blocks_signs_and_the_spread_of_activations_as_they_are():
    eye = torch.eye(64)
    a = probes.Direction.from_vectors(eye[[0, 1]], (0, 1))
    b = probes.Direction.from_vectors(eye[[1, 2]], (1, 2))
    for found in (probes.compare(a, b), probes.compare(b, a)):
        assert found.layers == (1,)
        assert found.cosine == pytest.approx([1.0])
    opposite = probes.compare(a, probes.Direction.from_vectors(-eye[[0, 1]], (0, 1)))
    assert (opposite.p_value < 0.01).all()
    assert np.isnan(probes.compare(a, a, reliabilities=([-0.5, 1], [-0.5, 1])).corrected[0])
    values = torch.randn(100, 2, 64, generator=torch.Generator().manual_seed(0))
    near, far = (
        probes.compare(a, a, acts=probes.Activations(x, (0, 1))) for x in (values, values + 5)
    )
    np.testing.assert_allclose(far.null_interval, near.null_interval, atol=1e-3)


def test_an_eraser_keeps_to_its_blocks_and_to_the_mean_it_was_fitted_with():
    acts, labels, *_ = planted(families=40, size=3.0)
    eraser = probes.fit_eraser(acts, labels)
    erased = eraser.apply(acts)
    turned = probes.Activations(acts.values.flip(1), (2, 1, 0))
    torch.testing.assert_close(eraser.apply(turned).values, erased.values)
    ones = [k for k in range(80) if labels[k]]
    torch.testing.assert_close(eraser.apply(acts.select(ones)).values, erased.values[ones])
