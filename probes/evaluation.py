"""`evaluate`: how well a probe's method finds its concept in families it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from probes.activations import Activations
from probes.errors import DataError
from probes.fitting import (
    FOLDS,
    Labels,
    Probe,
    checked_labels,
    fit,
    grouped_folds,
    out_of_fold_scores,
)
from probes.metrics import auroc, bootstrap_auroc, bootstrap_mean, family_weights, interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found. Intervals are 95 % bootstrap percentiles over families.

    Those of cross-validated figures are widened, because the folds share their training texts: by
    √(1 + k/(k−1)) for k folds, the correction of Nadeau & Bengio (2003). Without it an interval for
    shuffled labels covers 0.5 only three times in four.

    Attributes:
        layers: block indices.
        auroc, auroc_interval: `[layer]` and `[2, layer]`, grouped cross-validation over all families.
        accuracy, accuracy_interval: likewise, at the probe's own threshold.
        selected_layer: best layer by cross-validation inside the selection half of the families.
        selected: AUROC there on the other half, which neither fitting nor selection has seen.
        null_interval: `[2, layer]`, central 95 % of cross-validated AUROC with shuffled labels.
        null_max: 95th percentile of the shuffled labels' best layer: what choosing a layer earns.
        floor: AUROC of a bag of words (TF-IDF, 1–2 grams) on the same folds, if texts were given.
    """

    method: str
    layers: tuple[int, ...]
    auroc: Float[np.ndarray, " layer"]
    auroc_interval: Float[np.ndarray, "2 layer"]
    accuracy: Float[np.ndarray, " layer"]
    accuracy_interval: Float[np.ndarray, "2 layer"]
    selected_layer: int
    selected: Estimate
    null_interval: Float[np.ndarray, "2 layer"] | None
    null_max: float | None
    floor: Estimate | None
    families: int

    def __str__(self) -> str:
        lines = [
            f"{self.method}, {self.families} families, 95 % intervals over families",
            "layer  AUROC                 accuracy",
        ]
        for row, layer in enumerate(self.layers):
            mark = "  <- selected" if layer == self.selected_layer else ""
            low, high = self.auroc_interval[:, row]
            lines.append(
                f"{layer:5d}  {self.auroc[row]:.3f} [{low:.3f}, {high:.3f}]  {self.accuracy[row]:.3f}{mark}"
            )
        lines.append(
            f"layer {self.selected_layer} on families not used for selecting it: AUROC {self.selected}"
        )
        if self.null_max is not None:
            lines.append(f"shuffled labels, best layer: 95th percentile {self.null_max:.3f}")
        if self.floor is not None:
            lines.append(f"bag of words: {self.floor}")
        return "\n".join(lines)


def evaluate(
    probe: Probe,
    acts: Activations,
    labels: Labels,
    *,
    groups: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    folds: int = FOLDS,
    resamples: int = 1000,
    permutations: int = 100,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a probe's method on held-out families.

    The probe is refitted inside every fold, so that passing the activations it was fitted on is
    right; nothing it learned from a test family is used.

    Args:
        probe: gives the method.
        acts: pooled activations `[text, layer, d_model]`.
        labels: 0 or 1 for each text.
        groups: family of each text; families are never split.
        texts: the texts, for the bag-of-words floor.
        folds: of the grouped cross-validation.
        resamples: bootstrap resamples of families.
        permutations: labellings in the null (shuffled inside families where these hold both
            classes); 0 for none. Cheap for the difference of means; for logistic each costs a fit.
        seed: of folds, halves, resamples and permutations.

    Raises:
        DataError: as `fit`; or fewer than `2 * folds` families; or texts of another number.
    """
    y, groups = checked_labels(acts, labels, groups, probe.method)
    if texts is not None and len(texts) != len(acts):
        raise DataError(
            f"{len(texts)} texts were given for {len(acts)} activations; pass the same texts"
        )
    rng = np.random.default_rng(seed)
    families = sorted(set(groups))
    if len(families) < 2 * folds:
        raise DataError(
            f"evaluation needs at least {2 * folds} families for {folds} folds in each half; got {len(families)}"
        )
    weights = family_weights(len(families), resamples, rng)
    scores = out_of_fold_scores(acts.values, y[None], groups, probe.method, folds=folds, seed=seed)[
        0
    ]
    correct = ((scores > 0) == (y == 1)[:, None]).astype(float)
    selected_layer, selected = _selected(probe.method, acts, y, groups, folds, resamples, seed)
    null_interval, null_max = None, None
    if permutations:
        shuffled = shuffled_labels(y, groups, permutations, rng)
        null_scores = out_of_fold_scores(
            acts.values, shuffled, groups, probe.method, folds=folds, seed=seed
        )
        null = auroc(null_scores, shuffled)
        null_interval, null_max = interval(null), float(np.quantile(null.max(-1), 0.95))
    floor = None
    if texts is not None:
        words = bag_of_words_scores(texts, y, groups, folds=folds, seed=seed)[:, None]
        value = auroc(words, y)
        low, high = _cross_validated(value, bootstrap_auroc(words, y, groups, weights), folds)
        floor = Estimate(float(value[0]), float(low[0]), float(high[0]))
    area, accuracy = auroc(scores, y), correct.mean(0)
    return Evaluation(
        method=probe.method,
        layers=acts.layers,
        auroc=area,
        auroc_interval=_cross_validated(area, bootstrap_auroc(scores, y, groups, weights), folds),
        accuracy=accuracy,
        accuracy_interval=_cross_validated(
            accuracy, bootstrap_mean(correct, groups, weights), folds
        ),
        selected_layer=selected_layer,
        selected=selected,
        null_interval=null_interval,
        null_max=null_max,
        floor=floor,
        families=len(families),
    )


def shuffled_labels(
    labels: np.ndarray, groups: Sequence[str], permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """`[permutation, text]` labellings that a null hypothesis of no concept makes equally likely.

    Labels move inside their family if every family holds both classes (pairs, factorial cells), and
    over the whole set otherwise.
    """
    index = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(index, labels), np.bincount(index)
    if not ((sums > 0) & (sums < sizes)).all():
        return np.stack([rng.permutation(labels) for _ in range(permutations)])
    # Sorting random keys inside each family shuffles all families at once.
    by_family = np.argsort(index, kind="stable")
    shuffled = np.empty((permutations, len(labels)), dtype=labels.dtype)
    for row in shuffled:
        keys = np.lexsort((rng.random(len(labels)), index))
        row[by_family] = labels[keys]
    return shuffled


def bag_of_words_scores(
    texts: Sequence[str],
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Float[np.ndarray, " text"]:
    """Out-of-fold scores of a TF-IDF (1–2 grams) logistic classifier on the grouped folds."""
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


def _selected(
    method: str,
    acts: Activations,
    y: np.ndarray,
    groups: list[str],
    folds: int,
    resamples: int,
    seed: int,
) -> tuple[int, Estimate]:
    """The layer chosen on one half of the families, and its AUROC on the other."""
    rng = np.random.default_rng(seed)
    families = sorted(set(groups))
    chosen = set(rng.permutation(families)[: len(families) // 2].tolist())
    selection = [row for row, group in enumerate(groups) if group in chosen]
    report = [row for row, group in enumerate(groups) if group not in chosen]
    half = [groups[row] for row in selection]
    if len(set(y[report].tolist())) < 2:
        raise DataError(
            "half of the families hold one class only; spread the classes over more families"
        )
    scores = out_of_fold_scores(
        acts.values[selection], y[None, selection], half, method, folds=folds, seed=seed
    )[0]
    layer = acts.layers[int(np.argmax(auroc(scores, y[selection])))]
    probe = fit(
        acts.select(selection), y[selection].tolist(), groups=half, method=method, layer=layer
    )
    held_out = probe.score(acts.select(report)).numpy()[:, None]
    draws = bootstrap_auroc(
        held_out,
        y[report],
        [groups[row] for row in report],
        family_weights(len(families) - len(chosen), resamples, rng),
    )
    return layer, _estimate(auroc(held_out, y[report])[0], draws[:, 0])


def _cross_validated(
    value: Float[np.ndarray, " layer"], draws: Float[np.ndarray, "b layer"], folds: int
) -> Float[np.ndarray, "2 layer"]:
    """Percentile interval of a cross-validated figure, widened for the training texts its folds share."""
    widening = np.sqrt(1 + folds / (folds - 1))
    return np.clip(value + widening * (interval(draws) - value), 0, 1)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = interval(draws)
    return Estimate(float(value), float(low), float(high))
