"""Faults of the libraries that other backends read with."""

import pytest
import torch

import probes
import steering
from probes.backends import NNsight
from tests.conftest import TEXTS, tiny_model
from tests.test_steering import direction_for

pytest.importorskip("transformer_lens")
pytest.importorskip("nnsight")


@pytest.mark.parametrize(
    "backend", ["hooks", "transformer_lens", "nnsight", NNsight(remote="local")], ids=str
)
def test_no_model_or_vector_is_mistaken_for_another_of_the_same_name(backend):
    """Frameworks memoise what they wrap by its arguments and leave tensors out of the key."""
    models = [tiny_model("llama", seed=seed) for seed in (0, 1)]
    assert models[0].name == models[1].name
    found = []
    for model in models:
        found.append(probes.capture(model, TEXTS[:2], backend=backend).values)
        for seed in (0, 1):
            with steering.steer(model, steering.Add(direction_for(model, seed=seed), 1.0)):
                found.append(probes.capture(model, TEXTS[:2], backend=backend).values)
                expected = probes.capture(model, TEXTS[:2]).values
            torch.testing.assert_close(found[-1], expected, rtol=5e-4, atol=5e-5)
    with torch.no_grad():  # trained on in place, as the same object
        models[1].blocks[0].mlp.down_proj.weight += 0.1
    found.append(probes.capture(models[1], TEXTS[:2], backend=backend).values)
    torch.testing.assert_close(
        found[-1], probes.capture(models[1], TEXTS[:2]).values, rtol=5e-4, atol=5e-5
    )
    for k, values in enumerate(found):
        assert not any(torch.allclose(values, other, rtol=1e-2) for other in found[:k])


def test_a_rehearsal_leaves_process_pools_as_they_were():
    """nnsight marks every local module to be pickled by value, after which joblib cannot ship a function."""
    cloudpickle = pytest.importorskip("cloudpickle")
    probes.capture(tiny_model(), TEXTS[:1], backend=NNsight(remote="local"))
    assert not {"probes", "tests"} & cloudpickle.list_registry_pickle_by_value()
