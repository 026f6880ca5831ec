"""Faults of directions that other tools had."""

import pytest
import torch

import probes
from probes.estimators import ESTIMATORS
from tests.test_probes import columns, planted


def test_a_direction_made_of_massive_activations_is_reported_as_such():
    """One coordinate a hundred times as large as the rest carries the difference of means by itself."""
    acts, labels, groups, _ = planted(families=40, layers=2, width=48, size=4.0)
    acts.values[:, 1, 7] += 400 * (torch.tensor(labels) - 0.5)
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means", layer=1)
    found = probes.evaluate(probe, acts, labels, groups=groups, permutations=0, random_directions=0)
    assert found.top_share[0] < 0.8
    assert found.top_share[1] == pytest.approx(1, abs=1e-3)
    assert "top ten" in str(found).splitlines()[1]
    row = next(line for line in str(found).splitlines() if line.strip().startswith("1  "))
    assert row.removesuffix("  <- selected").endswith("1.00")


@pytest.mark.parametrize("method", ["difference_of_means", "lat", "lda"])
def test_means_keep_their_digits_beside_a_massive_coordinate(method):
    """Summed in float32, means of values near 3000 are known to a part in a few hundred of what differs."""
    acts, labels, groups, _ = planted(families=1000, layers=1, width=24)
    acts.values[:, 0, 5] += 3000
    fitted = ESTIMATORS[method](acts.values, *columns(labels, groups))
    exact = ESTIMATORS[method](acts.values.double(), *columns(labels, groups))
    assert (fitted[0] - exact[0]).norm() < 5e-5 * exact[0].norm()
    for texts in acts.values.double()[:, 0], acts.values.double()[:, 0].mean(0)[None]:
        ours, theirs = (texts @ w[0, 0].double() + b[0, 0].double() for w, b in (fitted, exact))
        assert (ours - theirs).abs().max() < 1e-3 * exact[0].norm()


@pytest.mark.parametrize("method", ESTIMATORS)
def test_half_precision_activations_are_summed_in_float32(method):
    """A user may pass what a bfloat16 model gave: the result is that of the same values in float32."""
    acts, labels, groups, _ = planted(families=40, layers=2)
    half = probes.Activations(acts.values.bfloat16(), acts.layers)
    wide = probes.Activations(acts.values.bfloat16().float(), acts.layers)
    ours, theirs = (probes.fit(a, labels, groups=groups, method=method) for a in (half, wide))
    torch.testing.assert_close(ours.direction.vectors, theirs.direction.vectors)
    torch.testing.assert_close(ours.thresholds, theirs.thresholds)
