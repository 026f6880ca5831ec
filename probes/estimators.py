"""Linear estimators of a concept's direction, at all layers and for many fits at once.

Each takes activations `x` `[text, layer, d_model]` and, for every fit (a column), labels `y` of zeros
and ones and the `rows` that it may learn from, both `[column, text]`, and the family of each text. It
returns weights `[column, layer, d_model]` and biases `[column, layer]` such that `⟨x, w⟩ + b > 0`
predicts class 1. Folds and permuted labels are columns, which makes cross-validated nulls cheap.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import DataError
from probes.logistic import logistic

Weights = tuple[Float[Tensor, "column layer d_model"], Float[Tensor, "column layer"]]


def difference_of_means(
    x: Float[Tensor, "text layer d_model"],
    y: Int[Tensor, "column text"],
    rows: Bool[Tensor, "column text"],
    groups: Sequence[str],
) -> Weights:
    """Mean of class 1 minus mean of class 0; the boundary lies halfway (Marks & Tegmark, 2023)."""
    ones = _means(x, rows & (y == 1))
    zeros = _means(x, rows & (y == 0))
    return _halfway(ones - zeros, ones, zeros)


def lat(
    x: Float[Tensor, "text layer d_model"],
    y: Int[Tensor, "column text"],
    rows: Bool[Tensor, "column text"],
    groups: Sequence[str],
) -> Weights:
    """First principal axis of the differences within families (Zou et al., 2023), class 1 minus class 0.

    The differences are not centred: centring would take away their mean, which is the concept. The
    axis points to where class 1 lies on average; the boundary is halfway between the classes.

    Raises:
        DataError: no family has texts of both classes.
    """
    weights = torch.empty(len(y), *x.shape[1:], dtype=torch.float32, device=x.device)
    for column, (labels, used) in enumerate(zip(y, rows, strict=True)):
        differences = _family_differences(x, labels, used, groups).transpose(0, 1)
        axis = _first_axis(differences)
        # As long as the mean difference along it, so that it is nothing where there is none.
        along = torch.einsum("lfd,ld->l", differences, axis) / differences.shape[1]
        weights[column] = axis * along[:, None]
    ones = _means(x, rows & (y == 1))
    zeros = _means(x, rows & (y == 0))
    return _halfway(weights, ones, zeros)


def _first_axis(
    rows: Float[Tensor, "layer family d_model"],
) -> Float[Tensor, "layer d_model"]:
    """The unit vector along which uncentred rows are largest, by the smaller of their two Gram matrices."""
    wide = rows.shape[2] > rows.shape[1]
    gram = rows @ rows.transpose(1, 2) if wide else rows.transpose(1, 2) @ rows
    top = torch.linalg.eigh(gram.double()).eigenvectors[..., -1].to(rows.dtype)
    axis = torch.einsum("lfd,lf->ld", rows, top) if wide else top
    return torch.nn.functional.normalize(axis, dim=-1)


def _family_differences(
    x: Tensor, labels: Tensor, used: Tensor, groups: Sequence[str]
) -> Float[Tensor, "family layer d_model"]:
    """Mean of class 1 minus mean of class 0 in every family that has both."""
    members: dict[str, tuple[list[int], list[int]]] = {}
    for row in used.nonzero()[:, 0].tolist():
        members.setdefault(groups[row], ([], []))[int(labels[row])].append(row)
    pairs = [(ones, zeros) for zeros, ones in members.values() if zeros and ones]
    if not pairs:
        raise DataError(
            "no family has texts of both classes, so there are no differences; pass groups that pair them"
        )
    return torch.stack([x[ones].mean(0) - x[zeros].mean(0) for ones, zeros in pairs])


def lda(
    x: Float[Tensor, "text layer d_model"],
    y: Int[Tensor, "column text"],
    rows: Bool[Tensor, "column text"],
    groups: Sequence[str],
) -> Weights:
    """Linear discriminant with a Ledoit–Wolf covariance, in float64; equal odds are the boundary.

    `w = Σ⁻¹(μ₁ − μ₀)`, where `Σ` is the covariance within the classes, shrunk towards a multiple of
    the identity by the amount of Ledoit & Wolf (2004): the whitened form of mass-mean probing (Marks
    & Tegmark, 2023), whose plain form is `difference_of_means`. The boundary lies where the classes
    are equally likely a priori, as it does there.
    """
    weights = torch.empty(len(y), *x.shape[1:], dtype=torch.float32, device=x.device)
    biases = torch.empty(len(y), x.shape[1], dtype=torch.float32, device=x.device)
    for columns, used in _training_sets(rows):
        own = x[used].double().transpose(0, 1)
        centre = own.mean(1, keepdim=True)
        z, basis = _in_span(own - centre)
        for column in columns:
            labels = y[column, used].bool()
            means = torch.stack([z[:, ~labels].mean(1), z[:, labels].mean(1)], 1)
            covariance = _ledoit_wolf(z - means[:, labels.long()], width=x.shape[2])
            w = torch.linalg.solve(covariance, means[:, 1] - means[:, 0])
            b = -(w * means.mean(1)).sum(-1)
            w = w if basis is None else torch.einsum("ldr,lr->ld", basis, w)
            weights[column], biases[column] = w.float(), (b - (w * centre[:, 0]).sum(-1)).float()
    return weights, biases


def _training_sets(rows: Bool[Tensor, "column text"]) -> Iterator[tuple[list[int], Tensor]]:
    """The columns that learn from the same texts, and those texts."""
    sets, owner = torch.unique(rows, dim=0, return_inverse=True)
    for k, used in enumerate(sets):
        yield (owner == k).nonzero()[:, 0].tolist(), used


def _means(x: Tensor, chosen: Bool[Tensor, "column text"]) -> Float[Tensor, "column layer d_model"]:
    """In float64; summed about the mean of all texts, so that a massive coordinate costs no digits."""
    centre = x.mean(0, dtype=torch.float64)
    shares = chosen.to(x.dtype)
    about = torch.einsum(
        "cn,nld->cld", shares / shares.sum(-1, keepdim=True), x - centre.to(x.dtype)
    )
    return about + centre.to(x.dtype).double()


def _halfway(weights: Tensor, ones: Tensor, zeros: Tensor) -> Weights:
    return weights.float(), -(weights * (ones + zeros) / 2).sum(-1).float()


def _ledoit_wolf(z: Float[Tensor, "layer text feature"], *, width: int) -> Tensor:
    """Shrunk covariance of centred rows, `[layer, feature, feature]`.

    The rows may be given in a basis of their span; `width` is the number of their own features,
    over which the mean variance is taken.
    """
    n = z.shape[1]
    empirical = z.transpose(1, 2) @ z / n
    mean_variance = empirical.diagonal(dim1=1, dim2=2).sum(-1) / width
    # Squared Frobenius distances, per feature as in the paper: of the estimate from a multiple of
    # the identity, and the expected one of the estimate from the truth.
    distance = empirical.square().sum((1, 2)) / width - mean_variance.square()
    noise = (z.square().sum(-1).square().mean(-1) - empirical.square().sum((1, 2))) / (n * width)
    shrinkage = noise.clamp_min(0) / distance.clamp_min(1e-300)
    # Never quite nothing, so that a layer without any variance can be solved, too.
    shrinkage = shrinkage.clamp(1e-9, 1.0)[:, None, None]
    ridge = shrinkage * mean_variance.clamp_min(1e-12)[:, None, None]
    identity = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    return (1 - shrinkage) * empirical + ridge * identity


def _in_span(z: Float[Tensor, "layer text d_model"]) -> tuple[Tensor, Tensor | None]:
    """Centred rows in an orthonormal basis of their span, and the basis; `None` if it would be no smaller."""
    if z.shape[2] <= z.shape[1]:
        return z, None
    basis = torch.linalg.qr(z.transpose(1, 2)).Q
    return z @ basis, basis


ESTIMATORS: dict[str, Callable[..., Weights]] = {
    "difference_of_means": difference_of_means,
    "lat": lat,
    "lda": lda,
    "logistic": logistic,
}


def estimate(
    method: str,
    x: Float[Tensor, "text layer d_model"],
    y: Int[Tensor, "column text"],
    rows: Bool[Tensor, "column text"],
    groups: Sequence[str],
) -> Weights:
    """The estimator of this name, run where the activations lie; labels and rows may lie elsewhere."""
    return ESTIMATORS[method](x, y.to(x.device), rows.to(x.device), groups)
