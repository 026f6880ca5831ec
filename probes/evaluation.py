"""`evaluate`: how well a probe's method finds its concept in families it has not seen."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probes.activations import Activations
from probes.controls import (
    bag_of_words_scores,
    control_labels,
    length_scores,
    null_of,
    random_direction_areas,
    shuffled_labels,
    split_half_reliability,
    top_share,
)
from probes.errors import DataError
from probes.evidence import Curve, Estimate, Evaluation
from probes.fitting import FOLDS, Labels, Probe, checked_labels, fit, out_of_fold_scores
from probes.folds import grouped_folds
from probes.metrics import (
    auroc,
    bootstrap_auroc,
    bootstrap_mean,
    calibration_error,
    family_weights,
    interval,
    widened,
    within_family_accuracy,
)

CONTROL_TASKS = 10
MIN_NEUTRAL = 100  # texts, to speak of one false positive in a hundred


def evaluate(
    probe: Probe,
    acts: Activations,
    labels: Labels,
    *,
    groups: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    neutral: Activations | None = None,
    folds: int = FOLDS,
    resamples: int = 1000,
    permutations: int = 100,
    random_directions: int = 200,
    halves: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate a probe's method on held-out families.

    The probe is refitted inside every fold, so that passing the activations it was fitted on is
    right; nothing it learned from a test family is used.

    Args:
        probe: gives the method and, for the share of its largest coordinates, the direction.
        acts: pooled activations `[text, layer, d_model]`.
        labels: 0 or 1 for each text.
        groups: family of each text; families are never split.
        texts: the texts, for the floors and the control tasks.
        neutral: activations of at least 100 texts about nothing of the kind, from the same model with
            the same pooling, for the true positive rate at one false positive in a hundred.
        folds: of the grouped cross-validation.
        resamples: bootstrap resamples of families.
        permutations: labellings in the null (shuffled inside families where these hold both
            classes); 0 for none. For the logistic probe each costs a fit at the penalties that the
            true labels chose.
        random_directions: in each of the two nulls of random directions; 0 for none.
        halves: splits for the reliability, each two fits; 0 for none. By default ten, and none for the
            logistic probe, which chooses its penalties anew in every half.
        seed: of folds, halves, resamples, permutations and random directions.

    Raises:
        DataError: as `fit`; or fewer than `2 * folds` families; or texts of another number; or too few
            neutral texts, or neutral texts that were measured otherwise.
    """
    y, groups = checked_labels(acts, labels, groups, probe.method)
    if halves is None:
        halves = 0 if probe.method == "logistic" else 10
    _check(acts, groups, texts, neutral, folds)
    rng = np.random.default_rng(seed)
    families = sorted(set(groups))
    weights = family_weights(len(families), resamples, rng)
    labellings = [y[None]]
    if permutations:
        trains = [train for train, _ in grouped_folds(groups, folds, seed)]
        labellings.append(shuffled_labels(y, groups, permutations, rng, trains=trains))
    all_scores = out_of_fold_scores(
        acts.values, np.concatenate(labellings), groups, probe.method, folds=folds, seed=seed
    )
    scores = all_scores[0]
    nulls = {}
    if permutations:
        nulls["shuffled labels"] = null_of(auroc(all_scores[1:], labellings[1]))
    for matched in ("covariance", "norm") if random_directions else ():
        nulls[f"random directions, {matched}"] = null_of(
            random_direction_areas(acts.values, y, random_directions, rng, matched=matched)
        )

    def curve(value: np.ndarray, draws: np.ndarray) -> Curve:
        return Curve(value, *widened(value, interval(draws), folds))

    area = auroc(scores, y)
    correct = ((scores > 0) == (y == 1)[:, None]).astype(float)
    selected_layer, report = _report(probe.method, acts, y, groups, neutral, folds, resamples, seed)
    selectivity = None
    floors = {}
    if texts is not None:
        row = acts.row_of(selected_layer)
        selectivity = float(area[row]) - _control_area(
            acts.at(selected_layer), texts, groups, probe.method, folds, seed
        )
        words = bag_of_words_scores(texts, y, groups, folds=folds, seed=seed)
        for name, floor in (("bag of words", words), ("length", length_scores(texts, y))):
            value = auroc(floor[:, None], y)
            floors[name] = curve(value, bootstrap_auroc(floor[:, None], y, groups, weights)).at(0)
    return Evaluation(
        method=probe.method,
        layers=acts.layers,
        families=len(families),
        auroc=curve(area, bootstrap_auroc(scores, y, groups, weights)),
        accuracy=curve(correct.mean(0), bootstrap_mean(correct, groups, weights)),
        within_pair=_within_pair(scores, y, groups, weights, curve),
        selected_layer=selected_layer,
        report=report,
        nulls=nulls,
        floors=floors,
        selectivity=selectivity,
        reliability=split_half_reliability(
            acts.values, y, groups, probe.method, splits=halves, seed=seed
        )
        if halves
        else None,
        top_share=top_share(probe.direction.vectors),
    )


def _check(
    acts: Activations,
    groups: Sequence[str],
    texts: Sequence[str] | None,
    neutral: Activations | None,
    folds: int,
) -> None:
    if texts is not None and len(texts) != len(acts):
        raise DataError(
            f"{len(texts)} texts were given for {len(acts)} activations; pass the same texts"
        )
    if len(set(groups)) < 2 * folds:
        raise DataError(
            f"evaluation needs at least {2 * folds} families for {folds} folds in each half; got {len(set(groups))}"
        )
    if neutral is None:
        return
    if len(neutral) < MIN_NEUTRAL:
        raise DataError(
            f"{len(neutral)} neutral texts cannot show one false positive in a hundred; pass at least {MIN_NEUTRAL}"
        )
    if (neutral.model, neutral.pool) != (acts.model, acts.pool):
        raise DataError(
            "the neutral texts were measured on another model or with another pooling; capture them the same way"
        )


def _report(
    method: str,
    acts: Activations,
    y: np.ndarray,
    groups: list[str],
    neutral: Activations | None,
    folds: int,
    resamples: int,
    seed: int,
) -> tuple[int, dict[str, Estimate]]:
    """The layer chosen on one half of the families, and every figure of it on the other."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    families = sorted(set(groups))
    chosen = set(rng.permutation(families)[: len(families) // 2].tolist())
    selection = [row for row, group in enumerate(groups) if group in chosen]
    held_out = [row for row, group in enumerate(groups) if group not in chosen]
    half, own = [groups[row] for row in selection], [groups[row] for row in held_out]
    truth = y[held_out]
    if len(set(truth.tolist())) < 2:
        raise DataError(
            "half of the families hold one class only; spread the classes over more families"
        )
    scores = out_of_fold_scores(
        acts.values[selection], y[None, selection], half, method, folds=folds, seed=seed
    )[0]
    row = int(np.argmax(auroc(scores, y[selection])))
    layer = acts.layers[row]
    probe = fit(
        acts.select(selection), y[selection].tolist(), groups=half, method=method, layer=layer
    )
    found = probe.score(acts.select(held_out)).numpy()[:, None]
    # The slope that turns distances into log-odds comes from texts their probe had not seen.
    curve = LogisticRegression(C=np.inf).fit(scores[:, [row]], y[selection])
    probabilities = curve.predict_proba(found)[:, 1]
    weights = family_weights(len(families) - len(chosen), resamples, rng)
    index = np.unique(own, return_inverse=True)[1]

    def mean(values: np.ndarray) -> Estimate:
        draws = bootstrap_mean(values.astype(float)[:, None], own, weights)[:, 0]
        return _estimate(values.mean(), draws)

    report = {
        "AUROC": _estimate(
            auroc(found, truth)[0], bootstrap_auroc(found, truth, own, weights)[:, 0]
        ),
        "accuracy": mean((found[:, 0] > 0) == (truth == 1)),
    }
    pairs = _within_pair(
        found, truth, own, weights, lambda value, draws: Curve(value, *interval(draws))
    )
    if pairs is not None:
        report["within-pair accuracy"] = pairs.at(0)
    report["Brier score"] = mean((probabilities - truth) ** 2)
    report["calibration error"] = _estimate(
        calibration_error(probabilities, truth, np.ones((1, len(truth))))[0],
        calibration_error(probabilities, truth, weights[:, index]),
    )
    if neutral is not None:
        positive = found[truth == 1, 0]
        reference = probe.score(neutral).numpy()
        # The threshold is an estimate, too: every resample draws its neutral texts anew.
        drawn = rng.choice(reference, (resamples, len(reference)))
        hits = positive > np.quantile(drawn, 0.99, axis=1)[:, None]
        counts = weights[:, index[truth == 1]]
        shares = (counts * hits).sum(-1) / np.where(counts.sum(-1), counts.sum(-1), np.nan)
        report["TPR at 1 % FPR on neutral text"] = _estimate(
            (positive > np.quantile(reference, 0.99)).mean(), shares
        )
    return layer, report


def _within_pair(
    scores: np.ndarray,
    y: np.ndarray,
    groups: Sequence[str],
    weights: np.ndarray,
    curve: Callable[[np.ndarray, np.ndarray], Curve],
) -> Curve | None:
    found = within_family_accuracy(scores, y, groups)
    known = ~np.isnan(found[:, 0])
    if not known.any():
        return None
    drawn = weights[:, known]
    counts = np.where(drawn.sum(-1), drawn.sum(-1), np.nan)[:, None]
    return curve(found[known].mean(0), drawn @ found[known] / counts)


def _control_area(
    values: Float[Tensor, "text d_model"],
    texts: Sequence[str],
    groups: Sequence[str],
    method: str,
    folds: int,
    seed: int,
) -> float:
    """Mean cross-validated AUROC of the control tasks at one layer."""
    tasks = control_labels(texts, CONTROL_TASKS, np.random.default_rng(seed))
    # A control task need not set a family's texts apart, and without that there is no axis to find.
    method = "difference_of_means" if method == "lat" else method
    scores = out_of_fold_scores(values[:, None], tasks, groups, method, folds=folds, seed=seed)
    return float(auroc(scores, tasks).mean())


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    low, high = interval(draws)
    return Estimate(float(value), float(low), float(high))
