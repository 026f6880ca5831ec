"""What holds for every estimator, whatever the shape, the dtype and the data."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.estimators import ESTIMATORS
from probes.logistic import logistic

# With one penalty: between two that do equally well, rounding may decide.
FITS = {**ESTIMATORS, "logistic": functools.partial(logistic, penalties=[10.0])}
METHODS = sorted(FITS)
TURNING = ["difference_of_means", "lat", "lda"]  # the logistic probe standardises each coordinate

pytestmark = pytest.mark.filterwarnings("error")


@st.composite
def problems(draw):
    """Activations of pairs with a planted concept, labels of two fits, their rows, and the families."""
    pairs, layers, width = (
        draw(st.integers(8, 20)),
        draw(st.integers(1, 3)),
        draw(st.integers(2, 40)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    y = torch.arange(2 * pairs) % 2
    x = torch.randn(2 * pairs, layers, width, generator=generator, dtype=torch.float64)
    # The coordinates differ in size, as a residual stream's do, and the concept has a share of each.
    sizes = torch.logspace(0, draw(st.sampled_from([0, 2])), width, dtype=torch.float64)
    x = (x + y[:, None, None] * torch.randn(layers, width, generator=generator)) * sizes
    other = y.clone()
    other[: 2 * (pairs // 2)] = 1 - other[: 2 * (pairs // 2)]
    rows = torch.ones(2, 2 * pairs, dtype=torch.bool)
    rows[1, : 2 * draw(st.integers(1, pairs - 6))] = False
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    groups = [f"family-{k // 2}" for k in range(2 * pairs)]
    return x.to(dtype), torch.stack([y, other]), rows, groups


def cosine(a, b):
    return torch.cosine_similarity(a.double(), b.double(), dim=-1)


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems())
@settings(max_examples=15)
def test_columns_do_not_touch_each_other_and_neither_does_the_order_of_texts(method, problem):
    x, y, rows, groups = problem
    weights, biases = FITS[method](x, y, rows, groups)
    assert weights.shape == (2, *x.shape[1:])
    assert biases.shape == (2, x.shape[1])
    alone, _ = FITS[method](x, y[1:], rows[1:], groups)
    assert cosine(weights[1], alone[0]).min() > 0.999
    kept = rows[1]  # texts outside a column's rows may hold anything
    spoilt = torch.where(kept[:, None, None], x, 1e3)
    assert cosine(FITS[method](spoilt, y[1:], rows[1:], groups)[0][0], weights[1]).min() > 0.999
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    shuffled = [groups[k] for k in order]
    again, _ = FITS[method](x[order], y[:, order], rows[:, order], shuffled)
    assert cosine(weights, again).min() > 0.999


@pytest.mark.parametrize("method", METHODS)
@given(problem=problems())
@settings(max_examples=15)
def test_a_shift_moves_the_boundary_alone_and_other_labels_turn_the_sign(method, problem):
    x, y, rows, groups = problem
    weights, biases = FITS[method](x, y, rows, groups)
    shift = 5 * x.std(dim=0)
    moved, far = FITS[method](x + shift, y, rows, groups)
    assert cosine(weights, moved).min() > 0.999
    scores = torch.einsum("nld,cld->cnl", x.float(), weights.float()) + biases[:, None]
    again = torch.einsum("nld,cld->cnl", (x + shift).float(), moved.float()) + far[:, None]
    torch.testing.assert_close(again, scores, rtol=0, atol=0.05 * float(scores.abs().max()))
    flipped, _ = FITS[method](x, 1 - y, rows, groups)
    assert cosine(weights, -flipped).min() > 0.999


@pytest.mark.parametrize("method", TURNING)
@given(problem=problems())
@settings(max_examples=15)
def test_a_rotation_of_the_activations_rotates_the_direction(method, problem):
    x, y, rows, groups = problem
    weights, _ = FITS[method](x, y, rows, groups)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(x.shape[2], x.shape[2], generator=generator)).Q.to(x.dtype)
    turned, _ = FITS[method](x @ turn, y, rows, groups)
    assert cosine(weights.to(x.dtype) @ turn, turned).min() > 0.999
