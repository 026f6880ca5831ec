"""L2 logistic regression at every layer, for many training sets, labellings and penalties at once.

One fit is one column: a labelling and the rows it may learn from. The columns of a layer share every
matrix product, and each penalty starts from the solution for the one above it. The solver is L-BFGS
(Nocedal & Wright 2006, algorithm 7.4) that begins with the inverse of the curvature at its starting
point, averaged over the columns, instead of a multiple of the identity.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from probes.folds import grouped_folds

PENALTIES = tuple(10.0 ** (5 - k * 5 / 7) for k in range(8))
"""λ of ½·λ·|w|² beside the summed log-loss, on standardised features: scikit-learn's 1/C."""

INNER_FOLDS = 5
MEMORY = 6  # steps that L-BFGS remembers
MAX_STEPS = 200
TOLERANCE = 2e-4  # of the gradient's norm, as a share of its norm at zero weights


def logistic(
    x: Float[Tensor, "text layer d_model"],
    y: Int[Tensor, "column text"],
    rows: Bool[Tensor, "column text"],
    groups: Sequence[str],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Float[Tensor, "column layer d_model"], Float[Tensor, "column layer"]]:
    """Weights and biases in activation space: features are standardised, and the scaler is folded in.

    Among several penalties every layer takes the one with the least log-loss in grouped
    cross-validation inside the column's own rows. Columns with the same rows share the choice that the
    first of them makes, so that a null by permutation costs one fit for each labelling.
    """
    grid = sorted(penalties, reverse=True)
    sets, owner = torch.unique(rows, dim=0, return_inverse=True)
    first = [int((owner == k).nonzero()[0]) for k in range(len(sets))]
    truth, used = y.T.to(x.dtype), rows.T.to(x.dtype)
    weights = x.new_empty(len(y), *x.shape[1:], dtype=torch.float32)
    biases = x.new_empty(len(y), x.shape[1], dtype=torch.float32)
    folds = [_inner(rows[k], groups) for k in first] if len(grid) > 1 else []
    for layer in range(x.shape[1]):
        z = x[:, layer]
        best = _least_losses(z, truth[:, first], folds, grid) if folds else [0] * len(sets)
        chosen = torch.tensor(best, device=owner.device)[owner]
        for value in set(best):
            columns = (chosen == value).nonzero()[:, 0]
            *_, (w, b) = path(z, truth[:, columns], used[:, columns], grid[value : value + 1])
            weights[columns, layer], biases[columns, layer] = w.T.float(), b.float()
    return weights, biases


def _inner(rows: Bool[Tensor, " text"], groups: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The training and the validation texts of each inner fold, `[text, fold]` zeros and ones."""
    inside = rows.nonzero()[:, 0].cpu()
    own = [groups[row] for row in inside.tolist()]
    folds = grouped_folds(own, min(INNER_FOLDS, len(set(own))), seed=0)
    trains, tests = torch.zeros(2, len(rows), len(folds), dtype=torch.float64)
    for k, (train, test) in enumerate(folds):
        trains[inside[train], k] = 1
        tests[inside[test], k] = 1
    return trains.to(rows.device), tests.to(rows.device)


def _least_losses(
    z: Tensor,
    y: Float[Tensor, "text set"],
    folds: Sequence[tuple[Tensor, Tensor]],
    grid: Sequence[float],
) -> list[int]:
    """For each training set the penalty with the least log-loss on its validation texts.

    The search ends where two penalties in a row were worse than the best of every set.
    """
    trains = torch.cat([train for train, _ in folds], 1)
    tests = torch.cat([test for _, test in folds], 1)
    sizes = [train.shape[1] for train, _ in folds]
    truth = y.repeat_interleave(torch.tensor(sizes, device=y.device), 1)
    losses: list[list[float]] = []
    for w, b in path(z, truth, trains.to(z.dtype), grid):
        logits = z @ w + b
        by_fold = (tests * (softplus(logits) - truth * logits)).sum(0)
        losses.append([float(part.sum()) for part in by_fold.split(sizes)])
        best = [
            min(range(len(losses)), key=lambda k: losses[k][set_]) for set_ in range(len(folds))
        ]
        if max(best) < len(losses) - 2:
            break
    return best


def path(
    x: Float[Tensor, "text d_model"], y: Tensor, used: Tensor, penalties: Sequence[float]
) -> Iterator[tuple[Float[Tensor, "d_model column"], Float[Tensor, " column"]]]:
    """Weights and biases for each penalty, the largest first.

    `y` and `used` `[text, column]` say, as zeros and ones, what is to be predicted and learned from.
    """
    shares = used.sum(1)
    centre = shares @ x / shares.sum()
    z = x - centre
    mean = z.T @ used / used.sum(0)
    spread = ((z.square().T @ used) / used.sum(0) - mean.square()).clamp_min(0).sqrt()
    # A feature that never varies says nothing; with a scale of 1 its weight stays zero.
    spread = torch.where(spread > 1e-6 * spread.mean(0), spread, 1.0)
    problem = _Problem(z, y, used, spread)
    point = z.new_zeros(z.shape[1] + 1, y.shape[1])
    for penalty in penalties:
        point = problem.minimise(point, penalty)
        w = point[:-1] / spread
        yield w, point[-1] - centre @ w


class _Problem:
    """Σ used·log-loss + ½λ|v|² over the weights v of the features z/spread and an unpenalised bias, by column."""

    def __init__(self, z: Tensor, y: Tensor, used: Tensor, spread: Tensor) -> None:
        self.z, self.y, self.used, self.spread = z, y, used, spread
        # One scale for all columns: they differ little, and a preconditioner need not be exact.
        self.scaled = z / spread.mean(1)
        nothing = z.new_zeros(z.shape[1] + 1, y.shape[1])
        self.goal = TOLERANCE * self._slope(nothing, 0 * y, penalty=0.0).norm(dim=0)

    def minimise(self, point: Tensor, penalty: float) -> Tensor:
        """The minimiser `[d_model + 1, column]`, the bias last, from a starting point."""
        logits = self._logits(point)
        solve = self._inverse_curvature(logits, penalty)
        slope, loss = self._slope(point, logits, penalty), self._loss(point, logits, penalty)
        memory: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(MAX_STEPS):
            active = slope.norm(dim=0) > self.goal
            if not active.any():
                break
            step = -_two_loops(slope, memory, solve) * active
            moved = self._logits(step)
            downhill = 1e-4 * (slope * step).sum(0)
            # Differences below the rounding of the loss itself mean nothing.
            slack = 10 * torch.finfo(loss.dtype).eps * loss.abs()
            size = torch.ones_like(loss)
            for _ in range(20):  # halve the step where the loss falls too little (Armijo)
                proposed = self._loss(point + size * step, logits + size * moved, penalty)
                short = proposed > loss + size * downhill + slack
                if not short.any():
                    break
                size = torch.where(short, size / 2, size)
            step = size * step
            point, logits, loss = point + step, logits + size * moved, proposed
            before, slope = slope, self._slope(point, logits, penalty)
            change = slope - before
            curvature = (step * change).sum(0)
            # A column that stood still has nothing to teach.
            inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 0.0)
            memory = [*memory[1 - MEMORY :], (step, change, inverse)]
        return point

    def _logits(self, point: Tensor) -> Tensor:
        return self.z @ (point[:-1] / self.spread) + point[-1]

    def _slope(self, point: Tensor, logits: Tensor, penalty: float) -> Tensor:
        error = self.used * (torch.sigmoid(logits) - self.y)
        weights = (self.z.T @ error) / self.spread + penalty * point[:-1]
        return torch.cat([weights, error.sum(0, keepdim=True)])

    def _loss(self, point: Tensor, logits: Tensor, penalty: float) -> Tensor:
        losses = self.used * (softplus(logits) - self.y * logits)
        return losses.sum(0) + penalty / 2 * point[:-1].square().sum(0)

    def _inverse_curvature(self, logits: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
        """The inverse of `XᵀDX + λI`, D the curvature of the log-loss at each text, averaged over columns."""
        p = torch.sigmoid(logits)
        curvature = (self.used * p * (1 - p)).mean(1).clamp_min(1e-6)
        x = self.scaled * curvature.sqrt()[:, None]
        wide = x.shape[1] > 2 * x.shape[0]  # then by way of the texts (Woodbury)
        product = x @ x.T if wide else x.T @ x
        product.diagonal().add_(penalty)
        factor = torch.linalg.cholesky(product)

        def solve(v: Tensor) -> Tensor:
            if wide:
                seen = torch.cholesky_solve(x @ v[:-1], factor)
                weights = (v[:-1] - x.T @ seen) / penalty
            else:
                weights = torch.cholesky_solve(v[:-1], factor)
            return torch.cat([weights, v[-1:] / curvature.sum()])

        return solve


def _two_loops(
    slope: Tensor,
    memory: Sequence[tuple[Tensor, Tensor, Tensor]],
    solve: Callable[[Tensor], Tensor],
) -> Tensor:
    """The inverse curvature that L-BFGS has learned, applied to the gradient."""
    shares = []
    for step, change, inverse in reversed(memory):
        share = inverse * (step * slope).sum(0)
        slope = slope - share * change
        shares.append(share)
    result = solve(slope)
    for (step, change, inverse), share in zip(memory, reversed(shares), strict=True):
        result = result + (share - inverse * (change * result).sum(0)) * step
    return result
