"""Estimators, probes and their evaluation on activations whose truth is known."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import probes
from probes.estimators import ESTIMATORS, lda, logistic
from probes.evaluation import shuffled_labels
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
        found = probes.evaluate(probe, acts, shuffled, groups=groups, permutations=0, resamples=300)
        covered += list((found.auroc_interval[0] <= 0.5) & (found.auroc_interval[1] >= 0.5))
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
    assert found.auroc[1] > 0.95
    assert found.accuracy[1] > 0.9
    assert found.selected.low > found.null_max
    assert found.floor.value <= 0.6
    assert "<- selected" in str(found)


@pytest.mark.parametrize(("families", "width"), [(30, 200), (200, 24)])
def test_lda_agrees_with_scikit_learn(families, width):
    acts, labels, _, _ = planted(families=families, width=width, size=1.5)
    values = 5 + acts.values * torch.linspace(0.2, 3, width)
    y = np.array(labels)
    weights, biases = lda(values, torch.tensor(labels)[None])
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
    acts, labels, *_ = planted(families=20)
    acts.values[:, 1] = 0.5
    for method in METHODS:
        weights, biases = ESTIMATORS[method](acts.values, torch.tensor(labels)[None])
        assert weights.isfinite().all()
        assert biases.isfinite().all()
        assert weights[0, 1].abs().max() < 1e-6


def test_logistic_agrees_with_scikit_learn():
    acts, labels, _, _ = planted(families=60, width=200, size=1.5)
    weights, biases = logistic(acts.values, torch.tensor(labels)[None])
    for layer in range(3):
        x = acts.values[:, layer].double().numpy()
        spread = np.sqrt(x.var(0).mean())
        oracle = LogisticRegression(C=1.0, max_iter=5000, tol=1e-10).fit(
            (x - x.mean(0)) / spread, labels
        )
        ours = acts.values[:, layer].double() @ weights[0, layer].double() + biases[0, layer]
        theirs = oracle.decision_function((x - x.mean(0)) / spread)
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-3)


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
    assert found.auroc.max() < 0.75


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
