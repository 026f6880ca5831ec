"""Estimators and evidence where the activations lie: on a GPU if there is one, else `to` changes nothing."""

import numpy as np
import pytest
import torch

import probes
from probes.estimators import ESTIMATORS
from tests.test_checkpoints import measured

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEAR = {"atol": 2e-3}


@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_a_probe_and_its_evidence_are_the_same_on_every_device(method):
    (acts, tuned), labels, groups, neutral = measured(lambda values: 1.1 * values, size=3.0)
    here = probes.fit(acts, labels, groups=groups, method=method)
    there = probes.fit(acts.to(DEVICE), labels, groups=groups, method=method)
    assert there.direction.vectors.device.type == "cpu"
    torch.testing.assert_close(there.direction.vectors, here.direction.vectors, rtol=0, **NEAR)
    torch.testing.assert_close(there.score(acts.to(DEVICE)), here.score(acts), rtol=0, atol=2e-2)
    few = {"permutations": 2, "random_directions": 5, "resamples": 20, "halves": 2}
    found = [
        probes.evaluate(here, own, labels, groups=groups, neutral=other, **few)
        for own, other in ((acts, neutral[0]), (acts.to(DEVICE), neutral[0].to(DEVICE)))
    ]
    np.testing.assert_allclose(found[1].auroc.value, found[0].auroc.value, **NEAR)
    assert found[1].selected_layer == found[0].selected_layer
    voices = [str(k // 2 % 2) for k in range(len(labels))]
    areas = [
        probes.transfer(here, own, labels, groups=groups, domains=voices, layer=0, resamples=10)
        for own in (acts, acts.to(DEVICE))
    ]
    np.testing.assert_allclose(areas[1].auroc, areas[0].auroc, **NEAR)
    moved = [tuple(own.to(device) for own in (acts, tuned, *neutral)) for device in ("cpu", DEVICE)]
    kept = [
        probes.across_checkpoints(
            here, base, other, labels, groups=groups, neutral=(first, second), resamples=10
        )
        for base, other, first, second in moved
    ]
    for name, curve in kept[0].auroc.items():
        np.testing.assert_allclose(kept[1].auroc[name].value, curve.value, **NEAR)


def test_erasing_and_comparing_take_activations_of_any_device():
    (acts, _), labels, groups, _ = measured(lambda values: values)
    eraser = probes.fit_eraser(acts.to(DEVICE), labels)
    erased = eraser.apply(acts.to(DEVICE))
    assert erased.values.device.type == DEVICE
    torch.testing.assert_close(erased.values.cpu(), eraser.apply(acts).values, **NEAR, rtol=0)
    probe = probes.fit(acts, labels, groups=groups, method="difference_of_means")
    same = probes.compare(probe.direction, probe.direction, acts=acts.to(DEVICE), draws=10)
    np.testing.assert_allclose(same.cosine, 1, atol=1e-5)
