"""Evidence about directions on activations whose truth is known: controls, transfer, comparison, erasure."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import probes
from probes.controls import (
    bag_of_words_scores,
    control_labels,
    length_scores,
    null_of,
    random_direction_areas,
    split_half_reliability,
    top_share,
)
from probes.metrics import (
    auroc,
    calibration_error,
    within_family_accuracy,
)
from tests.test_probes import planted


def evaluated(method="difference_of_means", **options):
    acts, labels, groups, _ = planted(families=60, size=2.0)
    probe = probes.fit(acts, labels, groups=groups, method=method)
    options = {"groups": groups, "permutations": 20, "resamples": 200, **options}
    return probes.evaluate(probe, acts, labels, **options)


def test_the_report_holds_every_figure_with_an_interval_around_it():
    rng = np.random.default_rng(0)
    texts = [f"case {rng.integers(9)} ends {rng.integers(30)}" for _ in range(120)]
    neutral = probes.Activations(torch.randn(150, 3, 24), (0, 1, 2))
    found = evaluated(texts=texts, neutral=neutral)
    assert set(found.report) == {
        *("AUROC", "accuracy", "within-pair accuracy", "Brier score", "calibration error"),
        "TPR at 1 % FPR on neutral text",
    }
    for name, figure in found.report.items():
        assert figure.low <= figure.value or name == "calibration error"
        assert figure.value <= figure.high
    assert found.report["AUROC"].value > 0.85
    assert found.report["Brier score"].value < 0.2
    assert found.report["within-pair accuracy"].value > 0.8
    assert 0.05 < found.report["TPR at 1 % FPR on neutral text"].value < 0.95
    assert abs(found.floors["length"].value - 0.5) < 0.2
    assert found.selectivity == pytest.approx(found.auroc.value.max() - 0.5, abs=0.12)
    assert found.p_value("shuffled labels") == pytest.approx(1 / 21)
    assert all(f"{name}" in str(found) for name in found.report)


def test_reliability_is_high_for_a_planted_direction_and_nothing_for_noise():
    acts, labels, groups, _ = planted(families=100, size=0.0)
    acts.values[:, 1] += 3.0 * torch.tensor(labels)[:, None] * torch.eye(24)[0]
    y = np.array(labels)
    found = split_half_reliability(acts.values, y, groups, "difference_of_means")
    assert found[1] > 0.9
    assert abs(found[0]) < 0.5
    with pytest.raises(probes.DataError, match="3 families cannot be split"):
        split_half_reliability(acts.values[:6], y[:6], groups[:6], "difference_of_means")


def test_spearman_and_brown_foretell_the_cosine_of_two_full_samples():
    """Two directions from fresh samples of the full size agree as well as the halves of one say."""
    predicted, observed = [], []
    for seed in range(6):
        acts, labels, groups, _ = planted(families=160, layers=1, width=40, size=1.0)
        noise = torch.Generator().manual_seed(seed)
        values = [acts.values[:1] * 0 + torch.randn(320, 1, 40, generator=noise) for _ in range(2)]
        truth = torch.nn.functional.normalize(torch.ones(40), dim=0)
        for sample in values:
            sample += torch.tensor(labels)[:, None, None] * truth
        fits = [
            probes.fit(probes.Activations(sample, (0,)), labels, method="difference_of_means")
            for sample in values
        ]
        observed.append(float(fits[0].direction.at(0) @ fits[1].direction.at(0)))
        y = np.array(labels)
        predicted.append(
            split_half_reliability(values[0], y, groups, "difference_of_means", splits=20)[0]
        )
    assert np.mean(predicted) == pytest.approx(np.mean(observed), abs=0.08)


def test_random_directions_with_the_covariance_find_what_varies_most():
    """A concept on the axis of largest variance is found by chance alone, and the null must say so."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 1, 50, generator=generator)
    labels = np.arange(200) % 2
    values[:, 0, 0] *= 3.0
    values[:, 0, 0] += 20.0 * torch.from_numpy(labels)
    rng = np.random.default_rng(0)
    areas = {
        matched: random_direction_areas(values, labels, 200, rng, matched=matched)
        for matched in ("covariance", "norm")
    }
    assert np.median(areas["covariance"]) > 0.95
    assert np.median(areas["norm"]) < 0.9
    assert (areas["norm"] >= 0.5).all()


def test_a_null_gives_quantiles_and_p_values_of_its_maximum():
    null = null_of(np.array([[0.5, 0.6], [0.7, 0.4], [0.5, 0.5], [0.3, 0.55]]))
    assert null.best.tolist() == [0.6, 0.7, 0.5, 0.55]
    assert null.p_value(0.6) == pytest.approx(3 / 5)
    assert null.p_value(0.71) == pytest.approx(1 / 5)
    assert null.quantile(1.0) == 0.7


def test_control_labels_follow_the_last_word():
    texts = ["a dog.", "the Dog", "one cat", "a bird!"] * 5
    tasks = control_labels(texts, 30, np.random.default_rng(0))
    assert tasks.shape == (30, 20)
    assert (tasks[:, 0] == tasks[:, 1]).all()
    assert len(np.unique(tasks[:, :4], axis=0)) >= 4
    assert all(0 < row.sum() < 20 for row in tasks)
    with pytest.raises(probes.DataError, match="end with 'dog'"):
        control_labels(["a dog", "the dog."], 3, np.random.default_rng(0))


def test_floors_see_words_and_length():
    labels = np.arange(80) % 2
    texts = [
        ("long and evil" if label else "good") + f" {k // 2}" for k, label in enumerate(labels)
    ]
    groups = [str(k // 2) for k in range(80)]
    assert auroc(bag_of_words_scores(texts, labels, groups)[:, None], labels)[0] > 0.99
    assert auroc(length_scores(texts, labels)[:, None], labels)[0] > 0.99
    assert auroc(length_scores(texts, 1 - labels)[:, None], 1 - labels)[0] > 0.99


def test_the_share_of_the_largest_coordinates_shows_a_massive_activation():
    vectors = torch.ones(2, 100)
    vectors[1, 3] = 100.0
    assert top_share(vectors) == pytest.approx([0.1, 1.0], abs=0.01)


def test_accuracy_within_families_counts_ties_half_and_skips_families_of_one_class():
    scores = np.array([[2.0], [1.0], [1.0], [1.0], [5.0], [0.0]])
    labels = np.array([1, 0, 1, 0, 1, 1])
    found = within_family_accuracy(scores, labels, ["a", "a", "b", "b", "c", "c"])
    assert found[:2, 0].tolist() == [1.0, 0.5]
    assert np.isnan(found[2, 0])


def test_calibration_error_is_nothing_for_true_probabilities_and_large_for_bold_ones():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=5000)
    labels = (rng.uniform(size=5000) < probabilities).astype(int)
    ones = np.ones((1, 5000))
    assert calibration_error(probabilities, labels, ones)[0] < 0.03
    bold = (probabilities > 0.5).astype(float)
    assert calibration_error(bold, labels, ones)[0] == pytest.approx(0.25, abs=0.03)
    doubled = np.concatenate([probabilities, probabilities])
    weighted = calibration_error(probabilities, labels, 2 * ones)
    again = calibration_error(doubled, np.concatenate([labels, labels]), np.ones((1, 10000)))
    assert weighted[0] == pytest.approx(again[0], abs=0.01)


def two_voices(size=3.0):
    """Families told in two voices; the second voice writes the concept on another axis."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(240, 2, 16, generator=generator)
    labels = torch.arange(240) % 2
    voices = ["first" if k // 2 % 2 else "third" for k in range(240)]
    for row in range(240):
        axes = (0, 1) if voices[row] == "first" else (0, 2)
        values[row, 1, list(axes)] += size * labels[row]
    groups = [f"f{k // 4}" for k in range(240)]
    return probes.Activations(values, (4, 7)), labels.tolist(), groups, voices


def test_transfer_is_read_off_the_diagonal_and_falls_where_the_axis_differs():
    acts, labels, groups, voices = two_voices()
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means", layer=7)
    found = probes.transfer(probe, acts, labels, groups=groups, domains=voices, resamples=200)
    assert found.domains == ("third", "first")
    assert np.diag(found.auroc).min() > 0.95
    assert 0.8 < found.auroc[0, 1] < np.diag(found.auroc).min()
    assert (found.low <= found.auroc).all()
    assert (found.auroc <= found.high).all()
    nothing = probes.transfer(
        probe, acts, labels, groups=groups, domains=voices, layer=4, resamples=200
    )
    assert np.abs(nothing.auroc - 0.5).max() < 0.15
    assert "first" in str(found)


def test_transfer_never_trains_on_a_tested_family_in_another_voice():
    acts, labels, groups, voices = two_voices(size=0.0)
    # Each family has a signature that gives its labels away in both voices.
    signature = torch.randn(60, 1, 16, generator=torch.Generator().manual_seed(1)) * 10
    acts.values[:] = signature.repeat_interleave(4, 0) * (
        torch.tensor(labels)[:, None, None] * 2 - 1
    )
    probe = probes.fit(acts, labels, groups=groups, method="lda", layer=7)
    found = probes.transfer(probe, acts, labels, groups=groups, domains=voices, resamples=50)
    assert found.auroc.max() < 0.75


def test_transfer_names_what_is_missing():
    acts, labels, groups, voices = two_voices()
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means", layer=7)
    with pytest.raises(probes.DataError, match="at least two"):
        probes.transfer(probe, acts, labels, groups=groups, domains=["first"] * 240)
    with pytest.raises(probes.DataError, match="3 domains were given for 240"):
        probes.transfer(probe, acts, labels, groups=groups, domains=voices[:3])
    odd = [
        "odd" if label and k < 20 else voice
        for k, (label, voice) in enumerate(zip(labels, voices, strict=True))
    ]
    with pytest.raises(probes.DataError, match="domain 'odd' lacks a class"):
        probes.transfer(probe, acts, labels, groups=groups, domains=odd)


def direction(vectors, layers=(0, 1)):
    return probes.Direction.from_vectors(vectors, layers)


def test_comparison_of_directions_knows_its_null_and_its_noise():
    a = direction(torch.eye(64)[:2])
    b = direction(torch.eye(64)[:2] + torch.eye(64)[2:4])
    found = probes.compare(a, b, reliabilities=([0.5, 0.9], [0.9, -0.1]))
    assert found.cosine == pytest.approx([0.5**0.5] * 2)
    assert found.corrected[0] == pytest.approx(0.5**0.5 / 0.45**0.5)
    assert np.isnan(found.corrected[1])
    assert found.null_interval[1] == pytest.approx([1.96 / 8] * 2, abs=0.03)
    assert (found.p_value < 0.01).all()
    # Where activations vary along one axis only, a large cosine is to be expected.
    values = torch.randn(100, 2, 64) * 0.01
    values[..., 0] += torch.randn(100, 2)
    acts = probes.Activations(values, (0, 1))
    crowded = probes.compare(a, direction(torch.eye(64)[[0, 0]]), acts=acts)
    assert crowded.null_interval[1, 0] > 0.9
    with pytest.raises(probes.LayerError, match="share no layer"):
        probes.compare(a, direction(torch.eye(64)[:1], (5,)))
    with pytest.raises(probes.DataError, match="width 64 and '' 8"):
        probes.compare(a, direction(torch.eye(8)[:2]))
    with pytest.raises(probes.DataError, match="3 reliabilities"):
        probes.compare(a, b, reliabilities=([1, 1, 1], [1, 1]))


@pytest.mark.parametrize(("families", "width"), [(100, 24), (40, 120)])
def test_after_erasure_no_linear_classifier_is_better_than_chance(families, width):
    acts, labels, *_ = planted(families=families, width=width, size=3.0)
    acts = probes.Activations(acts.values * torch.linspace(0.1, 4, width), acts.layers)
    eraser = probes.fit_eraser(acts, labels)
    erased = eraser.apply(acts)
    for layer in range(3):
        x = erased.at(layer).double().numpy()
        before = LogisticRegression().fit(acts.at(layer), labels)
        assert roc_auc_score(labels, before.decision_function(acts.at(layer))) > 0.9
        after = LogisticRegression(max_iter=2000).fit(x, labels)
        assert np.abs(after.coef_).max() < 1e-2
    torch.testing.assert_close(erased.values.mean(0), acts.values.mean(0), atol=1e-4, rtol=1e-4)


def test_erasure_moves_the_activations_less_than_projecting_out_the_mean_difference():
    acts, labels, *_ = planted(families=100, size=3.0)
    mixing = torch.randn(24, 24, generator=torch.Generator().manual_seed(3))
    acts = probes.Activations(acts.values @ mixing, acts.layers)
    erased = probes.fit_eraser(acts, labels).apply(acts)
    probe = probes.fit(acts, labels, method="difference_of_means", layer=0)
    u = probe.direction.vectors
    centred = acts.values - acts.values.mean(0)
    projected = acts.values - (centred * u).sum(-1, keepdim=True) * u
    ours = (erased.values - acts.values).square().sum()
    assert ours < (projected - acts.values).square().sum()


def test_a_label_that_activations_do_not_show_erases_nothing():
    acts = probes.Activations(torch.ones(8, 1, 4), (0,))
    erased = probes.fit_eraser(acts, [0, 1] * 4).apply(acts)
    torch.testing.assert_close(erased.values, acts.values)
    with pytest.raises(probes.DataError, match="width 4"):
        probes.fit_eraser(acts, [0, 1] * 4).apply(probes.Activations(torch.ones(2, 1, 5), (0,)))


def test_what_is_erased_at_some_layers_keeps_their_norms():
    generator = torch.Generator().manual_seed(0)
    acts = probes.Activations(
        torch.randn(8, 3, 4, generator=generator), (0, 1, 2), torch.tensor([1.0, 2.0, 3.0])
    )
    at_two = probes.fit_eraser(probes.Activations(acts.values[:, 2:], (2,)), [0, 1] * 4)
    erased = at_two.apply(acts)
    assert (erased.layers, erased.norms.tolist()) == ((2,), [3.0])
    with pytest.raises(probes.LayerError, match="layer 0 was not captured"):
        probes.fit_eraser(acts, [0, 1] * 4).apply(probes.Activations(torch.ones(2, 1, 4), (3,)))
