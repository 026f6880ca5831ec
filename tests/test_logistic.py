"""The logistic solver where rounding, odd layers and unlike training sets could lead it astray."""

import pytest
import torch

import probes
from probes import logistic as solver
from probes.folds import grouped_folds
from probes.logistic import logistic

# A fit that stops short of its optimum warns.
pytestmark = pytest.mark.filterwarnings("error")


def problem(texts, width, *, seed=0, size=1.0):
    """Activations of one layer in which the first coordinates say something, and labels `[text]`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(texts) % 2
    x = torch.randn(texts, 1, width, generator=generator)
    x[:, 0, :3] += size * y[:, None]
    return x, y, [str(k) for k in range(texts)]


def of_rows(*sets, texts):
    rows = torch.zeros(len(sets), texts, dtype=torch.bool)
    for row, used in zip(rows, sets, strict=True):
        row[used] = True
    return rows


@pytest.mark.parametrize("offset", [30.0, 1000.0])
@pytest.mark.parametrize("penalties", [[1.0], [1e3, 10.0, 1.0]])
def test_training_sets_far_apart_are_solved_as_if_alone(offset, penalties):
    x, y, groups = problem(400, 32)
    x[200:] += offset * torch.randn(32, generator=torch.Generator().manual_seed(1))
    rows = of_rows(slice(0, 200), slice(200, 400), texts=400)
    weights, biases = logistic(x, y.expand(2, -1), rows, groups, penalties=penalties)
    for k in range(2):
        own = rows[k]
        near = x[own] - x[own].mean(0)
        kept = [group for group, used in zip(groups, own.tolist(), strict=True) if used]
        alone, bias = logistic(near, y[None, own], own[None, own], kept, penalties=penalties)
        expected = near[:, 0] @ alone[0, 0] + bias[0, 0]
        found = x[own, 0].double() @ weights[k, 0].double() + biases[k, 0].double()
        torch.testing.assert_close(
            found.float(), expected, rtol=0, atol=0.01 * float(expected.abs().max())
        )


def test_a_coordinate_that_varies_in_one_training_set_only_is_nothing_in_the_other():
    x, y, groups = problem(400, 16)
    x[200:, 0, 5] = 7.3
    rows = of_rows(slice(0, 200), slice(200, 400), texts=400)
    weights, _ = logistic(x, y.expand(2, -1), rows, groups, penalties=[1.0])
    shares = weights[:, 0, 5].abs() / weights[:, 0].abs().amax(1)
    assert shares[0] > 0.01
    assert shares[1] < 1e-3


@pytest.mark.parametrize("penalties", [[1.0], [1e3, 1.0]])
def test_a_layer_whose_texts_are_all_the_same_gets_no_weights_out_of_rounding(penalties):
    _, y, groups = problem(997, 4)
    x = 37.3 * torch.randn(64, generator=torch.Generator().manual_seed(0)).expand(997, 1, 64)
    rows = torch.ones(5, 997, dtype=torch.bool)
    for row, (_, test) in zip(rows, grouped_folds(groups, 5, seed=0), strict=True):
        row[test] = False
    weights, biases = logistic(x, y.expand(5, -1), rows, groups, penalties=penalties)
    assert weights.abs().max() < 1e-5
    assert biases.abs().max() < 0.1  # the log-odds of nearly equal classes


@pytest.mark.parametrize(("texts", "width"), [(1500, 1000), (500, 1500)])
@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_a_layer_of_few_distinct_texts_can_be_solved(texts, width, penalty):
    few, _, _ = problem(2, width)
    _, y, groups = problem(texts, 4)
    x = few[y]
    weights, biases = logistic(
        x, y[None], torch.ones(1, texts, dtype=torch.bool), groups, penalties=[penalty]
    )
    scores = x[:2, 0] @ weights[0, 0] + biases[0, 0]
    assert scores[0] < 0 < scores[1]
    assert float(scores.sum()) == pytest.approx(0, abs=0.02 * float(scores.abs().max()))


def test_random_labels_on_few_distinct_texts_are_solved_to_the_end():
    few, _, groups = problem(300, 1000, size=0)
    x = few[torch.arange(300) % 5]
    y = torch.randint(0, 2, (1, 300), generator=torch.Generator().manual_seed(3))
    weights, biases = logistic(x, y, torch.ones(1, 300, dtype=torch.bool), groups, penalties=[1.0])
    scores = x[:5, 0] @ weights[0, 0] + biases[0, 0]
    shares = torch.stack([y[0, k::5].float().mean() for k in range(5)])
    torch.testing.assert_close(scores.sigmoid(), shares, rtol=0, atol=0.03)


def test_a_fit_that_stops_short_says_so(monkeypatch):
    x, y, groups = problem(100, 8)
    monkeypatch.setattr("probes.logistic.MAX_STEPS", 1)
    with pytest.warns(RuntimeWarning, match="1 of 1 logistic fits at penalty 1 stopped short"):
        logistic(x, y[None], torch.ones(1, 100, dtype=torch.bool), groups, penalties=[1.0])


def test_the_choice_of_a_penalty_does_not_depend_on_the_other_layers(monkeypatch):
    """The easy layer keeps the search going past the place where the hard one would have ended."""
    found = []
    search = solver._least_losses

    def watched(*problem):
        found.append(search(*problem))
        return found[-1]

    monkeypatch.setattr(solver, "_least_losses", watched)
    generator = torch.Generator().manual_seed(40)  # its validation loss has two valleys
    y = torch.arange(40) % 2
    x = torch.randn(40, 2, 30, generator=generator)
    x[:, 0, 0] += 0.8 * y
    x[:, 1, 0] = 8.0 * y + 0.1 * torch.randn(40, generator=generator)
    rows, groups = torch.ones(1, 40, dtype=torch.bool), [str(k) for k in range(40)]
    for part in (x, x[:, :1]):
        logistic(part, y[None], rows, groups)
    both, alone = found
    assert both[1] > both[0] + 2
    assert both[0] == alone[0]


def test_choosing_a_penalty_takes_two_families():
    x, y, _ = problem(40, 4)
    acts = probes.Activations(x, (0,))
    with pytest.raises(probes.DataError, match="of family 'one'; choosing a penalty takes two"):
        probes.fit(acts, y, groups=["one"] * 40, layer=0)
