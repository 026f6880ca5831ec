"""Linear estimators of a concept's direction, at all layers and for many labellings at once.

Each takes activations `x` `[text, layer, d_model]` and labellings `y` `[labelling, text]` of zeros
and ones, and returns weights `[labelling, layer, d_model]` and biases `[labelling, layer]` such that
`⟨x, w⟩ + b > 0` predicts class 1. Several labellings at once make permutation nulls cheap.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weights = tuple[Float[Tensor, "labelling layer d_model"], Float[Tensor, "labelling layer"]]

# An inverse penalty of 1 on features of unit average variance, as in scikit-learn after scaling.
PENALTY = 1.0
MAX_NEWTON_STEPS = 50


def difference_of_means(
    x: Float[Tensor, "text layer d_model"], y: Int[Tensor, "labelling text"]
) -> Weights:
    """Mean of class 1 minus mean of class 0; the boundary lies halfway (Marks & Tegmark, 2023)."""
    y = y.to(x.dtype)
    ones = torch.einsum("pn,nld->pld", y / y.sum(-1, keepdim=True), x)
    zeros = torch.einsum("pn,nld->pld", (1 - y) / (1 - y).sum(-1, keepdim=True), x)
    weights = ones - zeros
    return weights, -(weights * (ones + zeros) / 2).sum(-1)


def lda(x: Float[Tensor, "text layer d_model"], y: Int[Tensor, "labelling text"]) -> Weights:
    """Linear discriminant with a Ledoit–Wolf covariance, in float64; equal odds are the boundary.

    `w = Σ⁻¹(μ₁ − μ₀)`, where `Σ` is the covariance within the classes, shrunk towards a multiple of
    the identity by the amount of Ledoit & Wolf (2004): the whitened form of mass-mean probing (Marks
    & Tegmark, 2023), whose plain form is `difference_of_means`. The boundary lies where the classes
    are equally likely a priori, as it does there.
    """
    x = x.double().transpose(0, 1)
    centre = x.mean(1, keepdim=True)
    z, basis = _in_span(x - centre)
    weights, biases = [], []
    for labels in y.bool():
        means = torch.stack([z[:, ~labels].mean(1), z[:, labels].mean(1)], 1)
        within = z - means[:, labels.long()]
        covariance = _ledoit_wolf(within, width=x.shape[2])
        difference = means[:, 1] - means[:, 0]
        w = torch.linalg.solve(covariance, difference)
        middle = means.mean(1)
        b = -(w * middle).sum(-1)
        w = w if basis is None else torch.einsum("ldr,lr->ld", basis, w)
        weights.append(w)
        biases.append(b - (w * centre[:, 0]).sum(-1))
    return torch.stack(weights).float(), torch.stack(biases).float()


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


def logistic(x: Float[Tensor, "text layer d_model"], y: Int[Tensor, "labelling text"]) -> Weights:
    """Logistic regression with an L2 penalty, by Newton's method in float64.

    Features are centred and divided by one number per layer (the root of their mean variance), so
    that the penalty means the same at every layer and the direction stays in activation space.
    """
    x = x.double().transpose(0, 1)
    centre = x.mean(1, keepdim=True)
    spread = (x - centre).square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-12)
    # The penalised optimum lies in the span of the texts: solve there, with fewer unknowns.
    z, basis = _in_span((x - centre) / spread)
    weights, biases = [], []
    for labels in y.double():
        w, b = _newton(z, labels)
        w = w if basis is None else torch.einsum("ldr,lr->ld", basis, w)
        w = w / spread[:, 0]
        weights.append(w)
        biases.append(b - (w * centre[:, 0]).sum(-1))
    return torch.stack(weights).float(), torch.stack(biases).float()


def _newton(
    z: Float[Tensor, "layer text feature"], y: Float[Tensor, " text"]
) -> tuple[Tensor, Tensor]:
    """Minimiser of Σ log-loss + ½·PENALTY·|w|² at every layer, the bias unpenalised."""
    design = torch.cat([z, torch.ones_like(z[..., :1])], dim=-1)
    penalty = torch.full_like(design[0, 0], PENALTY)
    penalty[-1] = 0.0
    beta = torch.zeros(design.shape[0], design.shape[2], dtype=z.dtype, device=z.device)

    def loss(beta: Tensor) -> Tensor:
        logits = torch.einsum("lnf,lf->ln", design, beta)
        losses = torch.nn.functional.softplus(logits) - y * logits
        return losses.sum(-1) + (penalty * beta.square()).sum(-1) / 2

    current = loss(beta)
    for _ in range(MAX_NEWTON_STEPS):
        p = torch.sigmoid(torch.einsum("lnf,lf->ln", design, beta))
        gradient = torch.einsum("lnf,ln->lf", design, p - y) + penalty * beta
        if gradient.abs().max() < 1e-7 * y.numel():
            break
        curvature = (p * (1 - p)).unsqueeze(-1)
        hessian = design.transpose(1, 2) @ (curvature * design) + torch.diag(penalty + 1e-9)
        factor = torch.linalg.cholesky(hessian)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        size = torch.ones_like(current)
        for _ in range(20):  # halve the step where it overshoots
            proposed = loss(beta - size[:, None] * step)
            worse = proposed > current + 1e-12 * current.abs()
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        beta = beta - size[:, None] * step
        current = loss(beta)
    return beta[:, :-1], beta[:, -1]


ESTIMATORS: dict[str, Callable[..., Weights]] = {
    "difference_of_means": difference_of_means,
    "lda": lda,
    "logistic": logistic,
}
