"""Faults that a probe could have and still look right: each test fails if one of them slips in."""

import numpy as np
import pytest
import torch

import probes
from probes.controls import shuffled_labels
from probes.estimators import ESTIMATORS
from probes.fitting import out_of_fold_scores
from probes.folds import grouped_folds
from probes.logistic import logistic
from tests.test_probes import columns, planted


def signatures(families=30, copies=2, width=24, size=10.0, seed=0):
    """Families that give their labels away by a vector of their own, which says nothing of others."""
    generator = torch.Generator().manual_seed(seed)
    n = 2 * copies * families
    labels = torch.arange(n) % 2
    own = torch.randn(families, 1, width, generator=generator) * size
    values = torch.randn(n, 1, width, generator=generator)
    values += own.repeat_interleave(2 * copies, 0) * (2 * labels[:, None, None] - 1)
    return values, labels.tolist(), [f"f{k // (2 * copies):02d}" for k in range(n)]


def test_the_folds_that_choose_a_penalty_keep_families_whole():
    values, labels, groups = signatures()
    grid = [1e4, 1.0]
    chosen, _ = logistic(values, *columns(labels, groups), penalties=grid)
    strong, _ = logistic(values, *columns(labels, groups), penalties=[1e4])
    torch.testing.assert_close(chosen, strong)


@pytest.mark.parametrize("excluded", [slice(0, 60), slice(60, 120)])
def test_a_penalty_is_chosen_within_the_rows_that_a_column_may_learn_from(excluded):
    acts, labels, groups, _ = planted(families=60, layers=1, width=20, size=2.0)
    y, rows, _ = columns(labels, groups)
    rows[0, excluded] = False
    values = acts.values.clone()
    values[excluded] = 30 * values[excluded].flip(0)  # says nothing of the labels
    grid = [1e4, 100.0, 1.0]
    used = rows[0].nonzero()[:, 0].tolist()
    alone = columns([labels[k] for k in used], [groups[k] for k in used])
    expected = logistic(values[used], *alone, penalties=grid)
    found = logistic(values, y, rows, groups, penalties=grid)
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=2e-3)


def test_the_first_labelling_of_every_training_set_chooses_for_the_others():
    """The true labels come first and the null's after them: the null must not choose for the truth."""
    acts, labels, groups, _ = planted(families=60, layers=1, width=20, size=2.0)
    rng = np.random.default_rng(0)
    null = torch.from_numpy(shuffled_labels(np.array(labels), groups, 2, rng))
    truth = torch.tensor(labels)
    y = torch.stack([truth, null[0], truth, null[1]])
    for order in (slice(0, 40), slice(40, 80)):
        rows = torch.ones(4, 120, dtype=torch.bool)
        rows[:2, order] = False
        rows[2:, 80:] = False
        grid = [1e5, 10.0]
        found, _ = logistic(acts.values, y, rows, groups, penalties=grid)
        expected, _ = logistic(acts.values, y, rows, groups, penalties=[10.0])
        torch.testing.assert_close(found, expected, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("method", ["difference_of_means", "lat", "lda"])
def test_the_boundary_is_halfway_whatever_the_numbers_of_texts(method):
    acts, labels, groups, _ = planted(families=60, size=3.0)
    rows = [k for k in range(120) if labels[k] or k % 8 == 0]  # four of class 1 to one of class 0
    x, y = acts.values[rows] + 5, torch.tensor(labels)[rows]
    weights, biases = ESTIMATORS[method](x, *columns(y.tolist(), [groups[k] for k in rows]))
    middle = (x[y == 1].mean(0) + x[y == 0].mean(0)) / 2
    scores = ((middle * weights[0]).sum(-1) + biases[0]) / weights[0].norm(dim=-1)
    assert scores.abs().max() < 1e-4


def test_lat_takes_the_mean_of_all_texts_of_a_family():
    acts, labels, groups, _ = planted(families=60)
    four = [f"f{k // 4}" for k in range(120)]
    means = torch.stack(
        [
            acts.values[k : k + 4 : 2].mean(0)
            for start in range(0, 120, 4)
            for k in (start, start + 1)
        ]
    )
    weights, _ = ESTIMATORS["lat"](acts.values, *columns(labels, four))
    expected, _ = ESTIMATORS["lat"](means, *columns(labels[:60], groups[:60]))
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["difference_of_means", "lat", "lda"])
def test_held_out_scores_are_distances_from_the_boundary_of_a_probe_fitted_on_the_other_folds(
    method,
):
    acts, labels, groups, _ = planted(families=12, size=1.0)
    acts = probes.Activations(acts.values + 5, acts.layers)
    labellings = np.stack([labels, 1 - np.array(labels)])
    labellings[1, :2] = labels[:2]
    found = out_of_fold_scores(acts.values, labellings, groups, method, folds=4, seed=3)
    for train, test in grouped_folds(groups, 4, seed=3):
        for y, scores in zip(labellings, found, strict=True):
            probe = probes.fit(
                acts.select(train.tolist()),
                y[train],
                groups=[groups[k] for k in train],
                method=method,
                layer=0,
            )
            expected = probe.scores(acts.select(test.tolist()))
            np.testing.assert_allclose(scores[test], expected, rtol=1e-3, atol=1e-3)


def test_a_training_fold_of_one_class_is_refused():
    values, groups = torch.randn(20, 1, 4), [f"f{k // 2}" for k in range(20)]
    labels = np.array([[1, 1] + [0] * 18])
    with pytest.raises(probes.DataError, match="one class only"):
        out_of_fold_scores(values, labels, groups, "difference_of_means")


def test_fit_names_the_block_and_the_units_of_its_direction():
    acts, labels, groups, truth = planted(families=40, size=0.0)
    acts.values[:, 2] += 4.0 * torch.tensor(labels)[:, None] * truth[2]
    acts = probes.Activations(3 * acts.values, (4, 7, 9))
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means")
    assert probe.layer == 9
    projected = probe.direction.project(acts)
    torch.testing.assert_close(probe.direction.scales, projected.std(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probe.score(acts), projected[:, 2] - probe.thresholds[2])


def test_scores_are_refused_where_a_layer_of_the_probe_is_not_finite_and_only_there():
    acts, labels, groups, _ = planted(families=20)
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means")
    wide = torch.cat([acts.values, torch.full_like(acts.values[:, :1], torch.inf)], 1)
    overflown = probes.Activations(wide, (*acts.layers, 90))
    torch.testing.assert_close(probe.score(overflown), probe.score(acts))
    wide[3, 1, 0] = torch.nan
    for read in (probe.score, probe.scores, probe.direction.project):
        with pytest.raises(probes.DataError, match=f"not finite: text 3, layer {acts.layers[1]};"):
            read(overflown)


def test_fit_selects_its_layer_on_whole_families():
    """A layer that betrays the families must lose to one that knows the concept."""
    betrayed, labels, groups = signatures()
    known = torch.randn(120, 1, 24, generator=torch.Generator().manual_seed(1))
    known[:, 0, 0] += 2.0 * torch.tensor(labels)
    acts = probes.Activations(torch.cat([betrayed, known], 1), (0, 1))
    assert probes.fit(acts, labels, groups=groups, method="lda").layer == 1


def test_infinite_activations_are_named():
    acts, labels, groups, _ = planted(families=20)
    acts.values[5, 1, 0] = float("inf")
    with pytest.raises(probes.DataError, match="text 5, layer 1"):
        probes.fit(acts, labels, groups=groups)


def test_the_seed_decides_the_folds():
    groups = [str(k) for k in range(40)]
    first, again, other = (grouped_folds(groups, 5, seed) for seed in (0, 0, 1))
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert any(
        len(a[1]) != len(b[1]) or (a[1] != b[1]).any() for a, b in zip(first, other, strict=True)
    )


def test_few_families_of_one_class_can_be_evaluated_against_shuffled_labels():
    """Three such families may fall into one fold, and what is left to learn from has one class."""
    groups = [f"f{k // 4}" for k in range(48)]
    labels = [int(k // 4 in (0, 3, 5)) for k in range(48)]
    values = torch.randn(48, 1, 8, generator=torch.Generator().manual_seed(0))
    acts = probes.Activations(values, (0,))
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means")
    found = probes.evaluate(
        probe, acts, labels, groups=groups, folds=3, resamples=20, random_directions=0, halves=0
    )
    assert len(found.nulls["shuffled labels"].best) == 100
