"""L2 logistic regression at every layer, for many training sets, labellings and penalties at once.

One fit is one column: a labelling and the rows it may learn from. Columns share every matrix product,
layers every call, and each penalty starts from the solution for the one above it. The solver is L-BFGS
(Nocedal & Wright 2006, algorithm 7.4) that begins with the inverse of the curvature at its starting
point, averaged over a layer's columns, instead of a multiple of the identity.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from probes.errors import DataError
from probes.folds import grouped_folds

PENALTIES = tuple(10.0 ** (5 - k * 5 / 7) for k in range(8))
"""λ of ½·λ·|w|² beside the summed log-loss, on standardised features: scikit-learn's 1/C."""

INNER_FOLDS = 5
MEMORY = 6  # steps that L-BFGS remembers
MAX_STEPS = 200
TOLERANCE = 2e-4  # of the gradient's norm, as a share of its norm at zero weights
# Numbers held per matrix: as many layers as fit are solved together.
AT_ONCE = {"cpu": 2**22, "cuda": 2**28}


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

    Raises:
        DataError: a penalty is to be chosen inside rows of one family.
    """
    grid = sorted(penalties, reverse=True)
    sets, owner = torch.unique(rows, dim=0, return_inverse=True)
    first = [int((owner == k).nonzero()[0]) for k in range(len(sets))]
    truth, used = y.to(x.dtype), rows.to(x.dtype)
    weights = x.new_empty(len(y), *x.shape[1:], dtype=torch.float32)
    biases = x.new_empty(len(y), x.shape[1], dtype=torch.float32)
    folds = [_inner(rows[k], groups) for k in first] if len(grid) > 1 else []
    for layers in layers_at_once(x, columns=max(len(y), INNER_FOLDS * len(folds))):
        z = x[:, layers].transpose(0, 1).contiguous()
        best = torch.zeros(len(z), len(sets), dtype=torch.long, device=z.device)
        if folds:
            best = _least_losses(z, truth[first], folds, grid)
        chosen = best[:, owner]
        for value in best.unique().tolist():
            wanted = chosen == value
            some, columns = wanted.any(1), wanted.any(0)
            wanted = wanted[some][:, columns]
            *_, (w, b) = path(
                z[some], truth[columns], used[columns], grid[value : value + 1], wanted=wanted
            )
            layer, column = wanted.nonzero(as_tuple=True)
            place = (
                columns.nonzero()[column, 0],
                some.nonzero()[layer, 0] + layers.start,
            )
            weights[place] = w[layer, column].float()
            biases[place] = b[layer, column].float()
    return weights, biases


def layers_at_once(x: Float[Tensor, "text layer d_model"], *, columns: int) -> Iterator[slice]:
    """The layers in runs that are small enough to be solved together."""
    texts, layers, width = x.shape
    numbers = texts * width + 2 * MEMORY * width * columns + 8 * texts * columns
    step = max(1, AT_ONCE["cpu" if x.device.type == "cpu" else "cuda"] // numbers)
    for start in range(0, layers, step):
        yield slice(start, min(start + step, layers))


def _inner(rows: Bool[Tensor, " text"], groups: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The training and the validation texts of each inner fold, `[fold, text]` zeros and ones."""
    inside = rows.nonzero()[:, 0].cpu()
    own = [groups[row] for row in inside.tolist()]
    if len(set(own)) < 2:
        raise DataError(
            f"all {len(own)} texts to learn from are of family {own[0]!r}; choosing a penalty takes two families"
        )
    folds = grouped_folds(own, min(INNER_FOLDS, len(set(own))), seed=0)
    trains, tests = torch.zeros(2, len(folds), len(rows), dtype=torch.float64)
    for k, (train, test) in enumerate(folds):
        trains[k, inside[train]] = 1
        tests[k, inside[test]] = 1
    return trains.to(rows.device), tests.to(rows.device)


def _least_losses(
    z: Float[Tensor, "layer text d_model"],
    y: Float[Tensor, "set text"],
    folds: Sequence[tuple[Tensor, Tensor]],
    grid: Sequence[float],
) -> Int[Tensor, "layer set"]:
    """For each layer and training set the penalty with the least log-loss on its validation texts.

    A search ends where two penalties in a row were worse than its best.
    """
    trains = torch.cat([train for train, _ in folds])
    tests = torch.cat([test for _, test in folds])
    sizes = [len(train) for train, _ in folds]
    own = torch.arange(len(folds), device=y.device).repeat_interleave(
        torch.tensor(sizes, device=y.device)
    )
    truth = y[own]
    best = torch.zeros(len(z), len(folds), dtype=torch.long, device=z.device)
    ended = torch.zeros_like(best, dtype=torch.bool)
    wanted = torch.ones(len(z), len(own), dtype=torch.bool, device=z.device)
    losses: list[Tensor] = []
    for w, b in path(z, truth, trains.to(z.dtype), grid, wanted=wanted):
        logits = w @ z.mT + b[..., None]
        by_fold = (tests * (softplus(logits) - truth * logits)).sum(2)
        losses.append(torch.stack([part.sum(1) for part in by_fold.split(sizes, 1)], 1))
        best = torch.where(ended, best, torch.stack(losses).argmin(0))
        ended |= best < len(losses) - 2
        if ended.all():
            break
        wanted &= ~ended[:, own]
    return best


def path(
    x: Float[Tensor, "layer text d_model"],
    y: Float[Tensor, "column text"],
    used: Float[Tensor, "column text"],
    penalties: Sequence[float],
    *,
    wanted: Bool[Tensor, "layer column"] | None = None,
) -> Iterator[tuple[Float[Tensor, "layer column d_model"], Float[Tensor, "layer column"]]]:
    """Weights and biases for each penalty, the largest first.

    `y` and `used` say, as zeros and ones, what is to be predicted and learned from. What is not
    `wanted` (read anew for each penalty) may stay unsolved.
    """
    shares = used.sum(0)
    centre = shares @ x / shares.sum()
    z = x - centre[:, None]
    exact, weights = z.double(), used.double() / used.sum(1, keepdim=True)
    mean = weights @ exact
    spread = (weights @ exact.square() - mean.square()).clamp_min(0).sqrt()
    # A feature that varies by no more than rounding says nothing; with a scale of 1 its weight stays zero.
    rounding = 10 * torch.finfo(x.dtype).eps * (centre[:, None].abs() + mean.abs())
    varies = spread > torch.maximum(rounding, 1e-6 * spread.mean(2, keepdim=True))
    spread = torch.where(varies, spread, 1.0)
    mean, spread = mean.to(x.dtype), spread.to(x.dtype)
    problem = _Problem(z, y, used, mean, spread)
    point = z.new_zeros(len(z), len(y), z.shape[2] + 1)
    if wanted is None:
        wanted = torch.ones(point.shape[:2], dtype=torch.bool, device=z.device)
    for penalty in penalties:
        point = problem.minimise(point, penalty, wanted)
        w = point[..., :-1] / spread
        yield w, point[..., -1] - (w * (mean + centre[:, None])).sum(2)


class _Problem:
    """Σ used·log-loss + ½λ|v|² over the weights v of the features (z − mean)/spread and an unpenalised bias.

    One for each layer and column: points and slopes are `[layer, column, d_model + 1]`, the bias last,
    and logits `[layer, column, text]`. Few long rows are much faster to multiply than few long columns.
    """

    def __init__(self, z: Tensor, y: Tensor, used: Tensor, mean: Tensor, spread: Tensor) -> None:
        self.z, self.y, self.used, self.mean, self.spread = z, y, used, mean, spread
        # One centre for each text and one scale for all columns: a preconditioner need not be exact.
        centre = (used / used.sum(0).clamp_min(1)).T @ mean
        self.scaled = (z - centre) / spread.mean(1, keepdim=True)
        nothing = z.new_zeros(len(z), len(y), z.shape[2] + 1)
        logits = z.new_zeros(len(z), *y.shape)
        self.goal = TOLERANCE * self._slope(nothing, logits, penalty=0.0).norm(dim=2)

    def minimise(
        self, point: Tensor, penalty: float, wanted: Bool[Tensor, "layer column"]
    ) -> Tensor:
        """The minimiser where it is wanted, from a starting point."""
        logits = self._logits(point)
        inverse_curvature = self._inverse_curvature(logits, penalty)
        slope, loss = self._slope(point, logits, penalty), self._loss(point, logits, penalty)
        memory: list[tuple[Tensor, Tensor, Tensor]] = []
        going = wanted.clone()
        for _ in range(MAX_STEPS):
            active = going & (slope.norm(dim=2) > self.goal)
            if not active.any():
                break
            step = -_two_loops(slope, memory, inverse_curvature) * active[..., None]
            moved = self._logits(step)
            downhill = 1e-4 * (slope * step).sum(2)
            # Differences below the rounding of the loss itself mean nothing.
            slack = 10 * torch.finfo(loss.dtype).eps * loss.abs()
            size = torch.ones_like(loss)
            for _ in range(20):  # halve the step where the loss falls too little (Armijo)
                tried = size[..., None]
                proposed = self._loss(point + tried * step, logits + tried * moved, penalty)
                falls = proposed <= loss + size * downhill + slack
                if falls.all():
                    break
                size = torch.where(falls, size, size / 2)
            going &= falls  # where it never falls, rounding hides the rest of the way
            size, loss = torch.where(falls, size, 0.0), torch.where(falls, proposed, loss)
            step = size[..., None] * step
            point, logits = point + step, logits + size[..., None] * moved
            before, slope = slope, self._slope(point, logits, penalty)
            change = slope - before
            curvature = (step * change).sum(2)
            # A column that stood still has nothing to teach.
            inverse = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 0.0)
            memory = [*memory[1 - MEMORY :], (step, change, inverse)]
        far = int((wanted & (slope.norm(dim=2) > 10 * self.goal)).sum())
        if far:
            warnings.warn(
                f"{far} of {int(wanted.sum())} logistic fits at penalty {penalty:.3g} stopped short of their "
                "optimum; take a larger penalty, or activations in float64",
                RuntimeWarning,
                stacklevel=2,
            )
        return point

    def _logits(self, point: Tensor) -> Tensor:
        weights = point[..., :-1] / self.spread
        return weights @ self.z.mT + (point[..., -1] - (weights * self.mean).sum(2))[..., None]

    def _slope(self, point: Tensor, logits: Tensor, penalty: float) -> Tensor:
        error = self.used * (torch.sigmoid(logits) - self.y)
        total = error.sum(2, keepdim=True)
        weights = (error @ self.z - total * self.mean) / self.spread + penalty * point[..., :-1]
        return torch.cat([weights, total], 2)

    def _loss(self, point: Tensor, logits: Tensor, penalty: float) -> Tensor:
        losses = self.used * (softplus(logits) - self.y * logits)
        return losses.sum(2) + penalty / 2 * point[..., :-1].square().sum(2)

    def _inverse_curvature(self, logits: Tensor, penalty: float) -> Callable[[Tensor], Tensor]:
        """Multiplies by `(XᵀDX + λI)⁻¹`, D the curvature of the log-loss at each text, averaged over columns.

        λ no smaller than what rounding leaves of it: this need not be exact, but positive.
        """
        p = torch.sigmoid(logits)
        curvature = (self.used * p * (1 - p)).mean(1).clamp_min(1e-6)
        x = self.scaled * curvature.sqrt()[..., None]
        wide = x.shape[2] > 2 * x.shape[1]  # then by way of the texts (Woodbury)
        # Which subtracts what nearly cancels; among few texts float64 is cheap.
        x = x.double() if wide else x
        product = x @ x.mT if wide else x.mT @ x
        diagonal = product.diagonal(dim1=1, dim2=2)
        rounding = 10 * torch.finfo(x.dtype).eps * diagonal.sum(1)
        ridge = rounding.clamp_min(penalty)[:, None]
        diagonal.add_(ridge)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(product))
        whole = curvature.sum(1)[:, None, None]

        def multiply(v: Tensor) -> Tensor:
            weights = v[..., :-1].to(x.dtype)
            if wide:
                weights = (weights - (weights @ x.mT) @ inverse @ x) / ridge[..., None]
            else:
                weights = weights @ inverse
            return torch.cat([weights.to(v.dtype), v[..., -1:] / whole], 2)

        return multiply


def _two_loops(
    slope: Tensor,
    memory: Sequence[tuple[Tensor, Tensor, Tensor]],
    inverse_curvature: Callable[[Tensor], Tensor],
) -> Tensor:
    """The inverse curvature that L-BFGS has learned, applied to the gradient."""
    shares = []
    for step, change, inverse in reversed(memory):
        share = (inverse * (step * slope).sum(2))[..., None]
        slope = slope - share * change
        shares.append(share)
    result = inverse_curvature(slope)
    for (step, change, inverse), share in zip(memory, reversed(shares), strict=True):
        result = result + (share - (inverse * (change * result).sum(2))[..., None]) * step
    return result
