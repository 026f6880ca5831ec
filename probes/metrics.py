"""AUROC and accuracy of many score columns at once, and their bootstrap over families."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def auroc(
    scores: Float[np.ndarray, "... text layer"], labels: Int[np.ndarray, "... text"]
) -> np.ndarray:
    """Area under the ROC curve for each column, ties counted half (Mann–Whitney). Returns `[..., layer]`."""
    from scipy.stats import rankdata

    positive = np.asarray(labels)[..., None] == 1
    ranks = rankdata(scores, axis=-2)
    n_positive = positive.sum(-2)
    n_negative = positive.shape[-2] - n_positive
    return ((ranks * positive).sum(-2) - n_positive * (n_positive + 1) / 2) / (
        n_positive * n_negative
    )


def family_weights(
    n_families: int, resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "b family"]:
    """How often each family is drawn in each bootstrap resample."""
    return rng.multinomial(n_families, np.full(n_families, 1 / n_families), size=resamples).astype(
        float
    )


def bootstrap_auroc(
    scores: Float[np.ndarray, "text layer"],
    labels: Int[np.ndarray, " text"],
    groups: Sequence[str],
    weights: Float[np.ndarray, "b family"],
) -> Float[np.ndarray, "b layer"]:
    """AUROC of every resample of whole families, each text counting as often as its family was drawn."""
    families, index = np.unique(np.asarray(groups), return_inverse=True)
    member = np.eye(len(families))[index]
    positive, negative = labels == 1, labels == 0
    pairs = weights @ member[positive].sum(0) * (weights @ member[negative].sum(0))
    columns = []
    for column in scores.T:
        above = column[positive][:, None] - column[negative][None, :]
        wins = member[positive].T @ ((np.sign(above) + 1) / 2) @ member[negative]
        columns.append(
            np.einsum("bf,fg,bg->b", weights, wins, weights, optimize=True)
            / np.where(pairs, pairs, np.nan)
        )
    return np.stack(columns, axis=-1)


def bootstrap_mean(
    values: Float[np.ndarray, "text layer"],
    groups: Sequence[str],
    weights: Float[np.ndarray, "b family"],
) -> Float[np.ndarray, "b layer"]:
    """Mean of every resample of whole families."""
    families, index = np.unique(np.asarray(groups), return_inverse=True)
    member = np.eye(len(families))[index]
    return (weights @ (member.T @ values)) / (weights @ member.sum(0))[:, None]


def interval(draws: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Percentile interval along the first axis: `[2, …]`, low and high; undefined draws are left out."""
    return np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)


def within_family_accuracy(
    scores: Float[np.ndarray, "text layer"],
    labels: Int[np.ndarray, " text"],
    groups: Sequence[str],
) -> Float[np.ndarray, "family layer"]:
    """Share of a family's (class 1, class 0) pairs in which class 1 scores higher, ties counted half.

    Families without both classes are NaN.
    """
    families, index = np.unique(np.asarray(groups), return_inverse=True)
    found = np.full((len(families), scores.shape[1]), np.nan)
    for family in range(len(families)):
        positive = scores[(index == family) & (labels == 1)]
        negative = scores[(index == family) & (labels == 0)]
        if len(positive) and len(negative):
            wins = np.sign(positive[:, None] - negative[None])
            found[family] = ((wins + 1) / 2).mean((0, 1))
    return found


def calibration_error(
    probabilities: Float[np.ndarray, " text"],
    labels: Int[np.ndarray, " text"],
    weights: Float[np.ndarray, "b text"],
    bins: int = 10,
) -> Float[np.ndarray, " b"]:
    """Expected calibration error in bins of equally many texts, for each weighting of the texts.

    The mean over texts of |mean probability − share of class 1| in their bin (Naeini et al., 2015).
    """
    order = np.argsort(probabilities, kind="stable")
    bin_of = np.empty(len(order), int)
    bin_of[order] = np.arange(len(order)) * bins // len(order)
    excess = (probabilities - labels)[:, None] * np.eye(bins)[bin_of]
    return np.abs(weights @ excess).sum(-1) / weights.sum(-1)


def widened(
    value: Float[np.ndarray, " layer"], bounds: Float[np.ndarray, "2 layer"], folds: int
) -> Float[np.ndarray, "2 layer"]:
    """The interval of a cross-validated figure, widened for the training texts that its folds share.

    By √(1 + k/(k−1)) for k folds (Nadeau & Bengio, 2003).
    """
    return np.clip(value + np.sqrt(1 + folds / (folds - 1)) * (bounds - value), 0, 1)
