"""Estimators, probes and their evaluation on activations whose truth is known."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probes
from probes.controls import shuffled_labels
from probes.estimators import ESTIMATORS, lda
from probes.folds import grouped_folds
from probes.logistic import logistic
from probes.metrics import auroc, bootstrap_auroc, family_weights

METHODS = tuple(ESTIMATORS)


def planted(families=400, layers=3, width=24, size=4.0, seed=0):
    """Random activations of pairs, a known unit direction added to the second text of each."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2 * families, layers, width, generator=generator)
    truth = torch.nn.functional.normalize(torch.randn(layers, width, generator=generator), dim=-1)
    labels = torch.arange(2 * families) % 2
    values += size * labels[:, None, None] * truth
    groups = [f"f{k // 2}" for k in range(2 * families)]
    return (
        probes.Activations(values, tuple(range(layers)), torch.ones(layers)),
        labels.tolist(),
        groups,
        truth,
    )


def columns(labels, groups=None):
    """One fit on all texts: labels, rows and groups as the estimators take them."""
    groups = [str(k) for k in range(len(labels))] if groups is None else groups
    return torch.tensor(labels)[None], torch.ones(1, len(labels), dtype=torch.bool), groups


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_recovered_with_its_sign(method):
    acts, labels, groups, truth = planted(families=4000)
    probe = probes.fit(acts, labels, groups=groups, method=method)
    cosines = (probe.direction.vectors * truth).sum(-1)
    assert cosines.min() > 0.99
    assert probe.score(acts).shape == (8000,)
    predicted = (probe.score(acts) > 0).long()
    assert (predicted == torch.tensor(labels)).float().mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_with_shuffled_labels_the_intervals_cover_one_half(method):
    acts, labels, groups, _ = planted(families=60)
    covered, reported = [], []
    for shuffled in shuffled_labels(np.array(labels), groups, 12, np.random.default_rng(0)):
        probe = probes.fit(acts, shuffled, groups=groups, method=method, layer=0)
        found = probes.evaluate(
            probe, acts, shuffled, groups=groups, permutations=0, resamples=300, halves=0
        )
        covered += list((found.auroc.low <= 0.5) & (found.auroc.high >= 0.5))
        reported.append(found.selected.low <= 0.5 <= found.selected.high)
    # 95 % nominally; the bounds leave room for 36 and 12 trials, not for a leak.
    assert np.mean(covered) >= 0.86
    assert np.mean(reported) >= 0.75


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_finds_the_layer_that_knows_and_beats_null_and_floor(method):
    acts, labels, groups, truth = planted(families=80, size=0.0)
    acts.values[:, 1] += 4.0 * torch.tensor(labels)[:, None] * truth[1]
    texts = [f"situation {group}" for group in groups]
    probe = probes.fit(acts, labels, groups=groups, method=method)
    found = probes.evaluate(probe, acts, labels, groups=groups, texts=texts, permutations=20)
    assert probe.layer == found.selected_layer == 1
    assert found.auroc.value[1] > 0.95
    assert found.accuracy.value[1] > 0.9
    assert found.selected.low > found.nulls["shuffled labels"].quantile(0.99)
    assert found.floors["bag of words"].value <= 0.6
    assert "<- selected" in str(found)


@pytest.mark.parametrize(("families", "width"), [(30, 200), (200, 24)])
def test_lda_agrees_with_scikit_learn(families, width):
    acts, labels, _, _ = planted(families=families, width=width, size=1.5)
    values = 5 + acts.values * torch.linspace(0.2, 3, width)
    y = np.array(labels)
    weights, biases = lda(values, *columns(labels))
    for layer in range(3):
        x = values[:, layer].double().numpy()
        means = np.stack([x[y == 0].mean(0), x[y == 1].mean(0)])
        covariance, shrinkage = ledoit_wolf(x - means[y], assume_centered=True)
        assert 0.01 < shrinkage < 0.99
        oracle = np.linalg.solve(covariance, means[1] - means[0])
        assert weights[0, layer].numpy() == pytest.approx(oracle, rel=1e-4, abs=1e-6)
        middle = x.mean(0) @ weights[0, layer].double().numpy() + biases[0, layer].item()
        assert middle == pytest.approx(0, abs=1e-3)  # as many texts of each class


def test_a_layer_without_variance_gives_a_finite_probe():
    acts, labels, groups, _ = planted(families=20)
    acts.values[:, 1] = 0.5
    for method in METHODS:
        weights, biases = ESTIMATORS[method](acts.values, *columns(labels, groups))
        assert weights.isfinite().all()
        assert biases.isfinite().all()
        assert weights[0, 1].abs().max() < 1e-6


@pytest.mark.parametrize("families", [40, 200])
@pytest.mark.parametrize("penalty", [1.0, 100.0, 1e4])
def test_logistic_agrees_with_scikit_learn_with_the_scaler_folded_in(families, penalty):
    acts, labels, _, _ = planted(families=families, width=120, size=1.5)
    values = (5 + acts.values * torch.linspace(0.2, 30, 120)).double()
    weights, biases = logistic(values, *columns(labels), penalties=[penalty])
    for layer in range(3):
        x = values[:, layer].numpy()
        oracle = make_pipeline(
            StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-10)
        ).fit(x, labels)
        ours = values[:, layer] @ weights[0, layer].double() + biases[0, layer]
        theirs = oracle.decision_function(x)
        assert ours.numpy() == pytest.approx(theirs, abs=0.01 * np.abs(theirs).max())


def test_every_column_of_a_logistic_fit_is_the_fit_on_its_own_rows():
    acts, labels, groups, _ = planted(families=60, width=20, size=1.0)
    rng = np.random.default_rng(0)
    y = torch.from_numpy(np.stack([labels, *shuffled_labels(np.array(labels), groups, 2, rng)]))
    rows = torch.ones(3, 120, dtype=torch.bool)
    rows[1, :40] = False
    together = logistic(acts.values, y, rows, groups, penalties=[10.0])
    for k in range(3):
        kept = [group for group, used in zip(groups, rows[k].tolist(), strict=True) if used]
        alone = logistic(
            acts.values[rows[k]], *columns(y[k, rows[k]].tolist(), kept), penalties=[10.0]
        )
        torch.testing.assert_close(together[0][k], alone[0][0], rtol=0.02, atol=2e-3)


def test_the_penalty_is_the_one_that_grouped_cross_validation_prefers():
    acts, labels, groups, _ = planted(families=60, layers=2, width=80, size=1.0)
    acts.values[:, 1] += 6.0 * torch.tensor(labels)[:, None] / 80**0.5
    y, rows, groups = columns(labels, groups)
    grid = [1e4, 100.0, 1.0]
    weights, _ = logistic(acts.values, y, rows, groups, penalties=grid)
    folds = grouped_folds(groups, 5, seed=0)
    for layer in range(2):
        x = acts.values[:, layer].numpy()
        losses = []
        for penalty in grid:
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=2000)
            )
            parts = [model.fit(x[a], y[0, a]).predict_log_proba(x[b]) for a, b in folds]
            losses.append(
                -sum(
                    p[range(len(b)), y[0, b]].sum() for p, (_, b) in zip(parts, folds, strict=True)
                )
            )
        best = grid[int(np.argmin(losses))]
        expected, _ = logistic(acts.values, y, rows, groups, penalties=[best])
        torch.testing.assert_close(weights[0, layer], expected[0, layer], rtol=0.02, atol=1e-3)


def test_layers_solved_together_or_one_by_one_choose_and_weigh_alike(monkeypatch):
    acts, labels, groups, _ = planted(families=60, layers=3, width=40, size=1.0)
    acts.values[:, 2] += 6.0 * torch.tensor(labels)[:, None] / 40**0.5
    y = torch.tensor([labels, labels, [1 - label for label in labels]])
    rows = torch.ones(3, 120, dtype=torch.bool)
    rows[1:, :60] = False
    grid = [1e5, 1e3, 10.0]
    together = logistic(acts.values, y, rows, groups, penalties=grid)
    monkeypatch.setattr("probes.logistic.AT_ONCE", {"cpu": 1})
    one_by_one = logistic(acts.values, y, rows, groups, penalties=grid)
    for ours, theirs in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-3)
    # Layers and training sets chose differently, so that no fit could be another one's by mistake.
    lengths = together[0].norm(dim=-1)
    assert lengths.max() > 10 * lengths.min()
    torch.testing.assert_close(together[0][1], -together[0][2], rtol=0.02, atol=1e-3)


def test_lat_keeps_the_mean_difference_that_centring_would_lose():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 1, 16, generator=generator) * 0.3
    values[0::2, :, 0] += 3.0  # the concept, the same in every pair
    noise = torch.randn(100, 1, generator=generator)
    values[0::2, :, 1] += 2 * noise  # a nuisance that varies more between pairs than the concept
    labels, groups = [1, 0] * 100, [str(k // 2) for k in range(200)]
    weights, _ = ESTIMATORS["lat"](values, *columns(labels, groups))
    assert weights[0, 0, 0] > 0.95
    with pytest.raises(probes.DataError, match="no family has texts of both classes"):
        ESTIMATORS["lat"](values, *columns(labels))


def test_auroc_and_its_bootstrap_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 3)).round(1)  # ties
    labels = np.arange(40) % 2
    groups = [f"f{k // 4}" for k in range(40)]
    expected = [roc_auc_score(labels, column) for column in scores.T]
    np.testing.assert_allclose(auroc(scores, labels), expected)
    weights = family_weights(10, 5, rng)
    draws = bootstrap_auroc(scores, labels, groups, weights)
    for weight, draw in zip(weights, draws, strict=True):
        counts = [weight[int(sorted(set(groups)).index(group))] for group in groups]
        again = [roc_auc_score(labels, column, sample_weight=counts) for column in scores.T]
        np.testing.assert_allclose(draw, again)


def test_shuffling_stays_inside_families_that_hold_both_classes():
    labels = np.array([0, 1, 1, 0, 1, 0])
    groups = ["a", "a", "b", "b", "c", "c"]
    shuffled = shuffled_labels(labels, groups, 50, np.random.default_rng(0))
    assert (shuffled.reshape(50, 3, 2).sum(-1) == 1).all()
    assert len(np.unique(shuffled, axis=0)) == 8
    loose = shuffled_labels(labels, list("abcdef"), 50, np.random.default_rng(0))
    assert (loose.sum(1) == 3).all()


def test_families_never_straddle_folds():
    acts, labels, groups, _ = planted(families=40, size=0.0)
    # Each family has a signature and the classes differ by it: only a split family could be learned.
    signature = torch.randn(40, 1, 24) * 10
    acts.values[:] = signature.repeat_interleave(2, 0) * (
        torch.tensor(labels)[:, None, None] * 2 - 1
    )
    probe = probes.fit(acts, labels, groups=groups, method="logistic", layer=0)
    found = probes.evaluate(probe, acts, labels, groups=groups, permutations=0)
    assert found.auroc.value.max() < 0.75


def test_directions_and_activations_survive_the_disk(tmp_path):
    acts, labels, groups, _ = planted(families=20)
    direction = probes.fit(acts, labels, groups=groups, name="planted").direction
    again = probes.Direction.load(direction.save(tmp_path / "direction.safetensors"))
    assert torch.equal(again.vectors, direction.vectors)
    assert torch.equal(again.scales, direction.scales)
    assert torch.equal(again.norms, direction.norms)
    assert (again.layers, again.layer, again.name) == (direction.layers, direction.layer, "planted")
    assert dict(again.provenance) == dict(direction.provenance)
    kept = probes.Activations.load(acts.save(tmp_path / "acts.safetensors"))
    assert torch.equal(kept.values, acts.values)
    torch.testing.assert_close(direction.vectors.norm(dim=-1), torch.ones(3))
    files = [direction.save(tmp_path / f"again-{k}.safetensors").read_bytes() for k in range(8)]
    assert len(set(files)) == 1


def test_files_that_are_not_ours_are_refused(tmp_path):
    acts, labels, groups, _ = planted(families=20)
    path = probes.fit(acts, labels, groups=groups).direction.save(tmp_path / "d.safetensors")
    with pytest.raises(probes.ArtefactError, match="holds 'direction'"):
        probes.Activations.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(probes.ArtefactError, match="checksum"):
        probes.Direction.load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(probes.ArtefactError, match="not a readable safetensors"):
        probes.Direction.load(path)
    torch.save({"vectors": torch.ones(1)}, path)
    with pytest.raises(probes.ArtefactError, match="not a readable safetensors"):
        probes.Direction.load(path)
    with pytest.raises(probes.ArtefactError, match="does not exist"):
        probes.Direction.load(tmp_path / "nowhere.safetensors")


def test_bad_labels_and_activations_are_named():
    acts, labels, groups, _ = planted(families=20)
    with pytest.raises(probes.DataError, match="all 40 labels are 1"):
        probes.fit(acts, [1] * 40)
    with pytest.raises(probes.DataError, match="39 labels were given for 40 texts"):
        probes.fit(acts, labels[:-1])
    with pytest.raises(probes.DataError, match="must be 0 or 1"):
        probes.fit(acts, [2, *labels[1:]])
    with pytest.raises(probes.DataError, match="3 groups were given"):
        probes.fit(acts, labels, groups=groups[:3])
    with pytest.raises(probes.DataError, match="2 families cannot fill 5 folds"):
        probes.fit(acts, labels, groups=["a"] * 20 + ["b"] * 20)
    with pytest.raises(probes.DataError, match="at least 10 families"):
        probes.evaluate(
            probes.fit(acts, labels), acts, labels, groups=[f"{k // 8}" for k in range(40)]
        )
    with pytest.raises(probes.DataError, match="method 'svm' is unknown"):
        probes.fit(acts, labels, method="svm")
    with pytest.raises(probes.LayerError, match="layer 9 was not captured"):
        probes.fit(acts, labels, layer=9)
    acts.values[3, 2, 5] = float("nan")
    with pytest.raises(probes.DataError, match="text 3, layer 2"):
        probes.fit(acts, labels)


def test_a_direction_refuses_activations_of_another_model():
    acts, labels, groups, _ = planted(families=20)
    probe = probes.fit(acts, labels, groups=groups, layer=2)
    other, *_ = planted(families=20, width=30)
    with pytest.raises(probes.DataError, match="another model"):
        probe.score(other)
    shallow = probes.Activations(acts.values[:, :1], (0,))
    with pytest.raises(probes.LayerError, match="layer 1 was not captured"):
        probe.score(shallow)
