"""Controls that every direction must face: nulls, floors, control tasks, reliability."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.errors import DataError
from probes.estimators import estimate
from probes.fitting import FOLDS
from probes.folds import grouped_folds
from probes.metrics import auroc, interval


@dataclass(frozen=True, slots=True)
class Null:
    """AUROC where there is nothing to find.

    Attributes:
        interval: `[2, layer]`, its central 95 %.
        best: `[draw]`, each draw's maximum over the layers: what choosing a layer earns by itself.
    """

    interval: Float[np.ndarray, "2 layer"]
    best: Float[np.ndarray, " draw"]

    def quantile(self, level: float) -> float:
        """That quantile of the best layer's AUROC."""
        return float(np.quantile(self.best, level))

    def p_value(self, observed: float) -> float:
        """Share of draws whose best layer reaches the observed best, the observed one counted in."""
        return float((1 + (self.best >= observed).sum()) / (1 + len(self.best)))


def null_of(areas: Float[np.ndarray, "draw layer"]) -> Null:
    """The null that these AUROCs form."""
    return Null(interval(areas), areas.max(-1))


def shuffled_labels(
    labels: np.ndarray,
    groups: Sequence[str],
    permutations: int,
    rng: np.random.Generator,
    *,
    trains: Sequence[Int[np.ndarray, " row"]] = (),
) -> Int[np.ndarray, "permutation text"]:
    """Labellings that a null hypothesis of no concept makes equally likely.

    Labels move inside a family that holds both classes (pairs, factorial cells). Families of one class
    exchange it as wholes: their texts are alike, and labels drawn text by text would make a null far
    narrower than the truth. A labelling that leaves a training fold (its rows, in `trains`) with one
    class, where the true labels do not, cannot be fitted and is drawn anew.
    """
    trains = [train for train in trains if labels[train].min() < labels[train].max()]
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(index, labels), np.bincount(index)
    single = np.flatnonzero((sums == 0) | (sums == sizes))
    whole = np.isin(index, single)
    # Sorting random keys inside each family shuffles all families at once.
    by_family = np.argsort(index, kind="stable")
    shuffled = np.empty((permutations, len(labels)), dtype=labels.dtype)
    for row in shuffled:
        while True:
            keys = np.lexsort((rng.random(len(labels)), index))
            row[by_family] = labels[keys]
            classes = (sums > 0).astype(labels.dtype)
            classes[single] = rng.permutation(classes[single])
            row[whole] = classes[index[whole]]
            if all(row[train].min() < row[train].max() for train in trains):
                break
    return shuffled


def random_direction_areas(
    values: Float[Tensor, "text layer d_model"],
    labels: Int[np.ndarray, " text"],
    directions: int,
    rng: np.random.Generator,
    *,
    matched: str,
) -> Float[np.ndarray, "direction layer"]:
    """AUROC of random directions, each with the sign that suits it.

    "covariance" draws them from a normal distribution with the activations' own covariance, so that
    they point where activations vary; "norm" draws them uniformly from the sphere.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    centred = values.float() - values.float().mean(0)
    areas = np.empty((directions, values.shape[1]))
    for row in range(values.shape[1]):
        x = centred[:, row]
        if matched == "covariance":
            drawn = torch.randn(directions, len(x), generator=generator).to(x.device) @ x
        else:
            drawn = torch.randn(directions, x.shape[1], generator=generator).to(x.device)
        areas[:, row] = auroc((x @ drawn.T).cpu().numpy(), labels)
    return np.maximum(areas, 1 - areas)


def bag_of_words_scores(
    texts: Sequence[str],
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Float[np.ndarray, " text"]:
    """Out-of-fold scores of a TF-IDF (1–2 grams) logistic classifier on the grouped folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    documents = np.asarray(texts, dtype=object)
    scores = np.empty(len(texts))
    for train, test in grouped_folds(groups, folds, seed):
        classifier = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b"),
            LogisticRegression(max_iter=1000),
        )
        classifier.fit(documents[train], labels[train])
        scores[test] = classifier.decision_function(documents[test])
    return scores


def length_scores(texts: Sequence[str], labels: np.ndarray) -> Float[np.ndarray, " text"]:
    """Length in characters, signed so that it speaks for class 1 as well as it can."""
    lengths = np.array([float(len(text)) for text in texts])
    return lengths if auroc(lengths[:, None], labels)[0] >= 0.5 else -lengths


def control_labels(
    texts: Sequence[str], tasks: int, rng: np.random.Generator
) -> Int[np.ndarray, "task text"]:
    """Labels that are random but fixed for each word: a text's is that of its last word.

    The control tasks of Hewitt & Liang (2019) for probes of whole texts: only a probe that memorises
    words can solve them.

    Raises:
        DataError: the texts end with fewer than two words.
    """
    ends = [
        text.split()[-1].strip(".,;:!?\"'”’)").lower() if text.split() else "" for text in texts
    ]
    if len(set(ends)) < 2:
        raise DataError(f"all texts end with {ends[0]!r}; a control task needs several last words")
    words, index = np.unique(ends, return_inverse=True)
    tables: list[np.ndarray] = []
    while len(tables) < tasks:
        labels = rng.integers(0, 2, len(words))
        if 0 < labels.sum() < len(labels):
            tables.append(labels[index])
    return np.stack(tables)


def split_half_reliability(
    values: Float[Tensor, "text layer d_model"],
    labels: Int[np.ndarray, " text"],
    groups: Sequence[str],
    method: str,
    *,
    splits: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, " layer"]:
    """How alike two directions from disjoint halves of the families are, stepped up to all families.

    The mean cosine ρ of the halves' directions, corrected to full length by Spearman & Brown:
    2ρ/(1+ρ). At 0 the direction is noise; a cosine between two directions can be at most the root of
    the product of their reliabilities.

    Raises:
        DataError: there are fewer than four families.
    """
    families = sorted(set(groups))
    if len(families) < 4:
        raise DataError(f"{len(families)} families cannot be split in halves; pass at least 4")
    rows = torch.from_numpy(np.stack(list(_halves(families, groups, splits, seed))))
    weights, _ = estimate(
        method, values, torch.from_numpy(labels).expand(len(rows), -1), rows, groups
    )
    halves = torch.nn.functional.normalize(weights, dim=-1).unflatten(0, (splits, 2))
    rho = (halves[:, 0] * halves[:, 1]).sum(-1).double().mean(0).cpu().numpy()
    return 2 * rho / (1 + np.clip(rho, -0.99, None))


def _halves(
    families: Sequence[str], groups: Sequence[str], splits: int, seed: int
) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(splits):
        chosen = set(rng.permutation(families)[: len(families) // 2].tolist())
        first = np.array([group in chosen for group in groups])
        yield first
        yield ~first


def top_share(
    vectors: Float[Tensor, "layer d_model"], coordinates: int = 10
) -> Float[np.ndarray, " layer"]:
    """Share of a direction's squared length in its largest coordinates.

    Near 1 it is a statement about a few massive activations, not about the residual stream.
    """
    squares = vectors.double().square().sort(dim=-1, descending=True).values
    return (squares[:, :coordinates].sum(-1) / squares.sum(-1)).cpu().numpy()
