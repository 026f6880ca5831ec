"""One direction on two checkpoints: frozen, refitted, and frozen after aligning them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import Activations
from probes.errors import DataError
from probes.estimators import estimate
from probes.evidence import Curve
from probes.fitting import FOLDS, Labels, Probe, checked_labels, splits_of
from probes.metrics import (
    auroc,
    bootstrap_auroc,
    calibration_error,
    family_weights,
    interval,
    widened,
)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What `across_checkpoints` found; arrays are `[layer]`.

    Attributes:
        layers: block indices.
        auroc: grouped cross-validation. "base": base's direction on base. On the tuned checkpoint:
            "frozen" base's direction, "refitted" its own, "aligned" base's after rotating the
            tuned checkpoint's activations onto base's.
        cosine: of base's and the tuned checkpoint's direction, each fitted on all texts.
        norm_drift: tuned over base, mean norm of the activations about their mean: above 1, equal
            projections are smaller shares of the whole.
        brier, calibration_error: of the frozen reading, in log-odds that were calibrated on base's
            other folds, by checkpoint ("base", "tuned"): what a threshold that was set on base is worth later.
    """

    layers: tuple[int, ...]
    auroc: Mapping[str, Curve]
    cosine: Float[np.ndarray, " layer"]
    norm_drift: Float[np.ndarray, " layer"]
    brier: Mapping[str, Float[np.ndarray, " layer"]]
    calibration_error: Mapping[str, Float[np.ndarray, " layer"]]

    def __str__(self) -> str:
        lines = [
            "layer  "
            + "".join(f"{name:<22}" for name in self.auroc)
            + "cosine  norms  Brier base/tuned"
        ]
        for row, layer in enumerate(self.layers):
            areas = "".join(f"{curve.at(row)!s:<22}" for curve in self.auroc.values())
            lines.append(
                f"{layer:5d}  {areas}{self.cosine[row]:6.3f}  {self.norm_drift[row]:5.2f}  "
                f"{self.brier['base'][row]:.3f}/{self.brier['tuned'][row]:.3f}"
            )
        return "\n".join(lines)


def check_comparable(base: Activations, tuned: Activations) -> None:
    """Refuse two measurements whose difference could come from anything but the weights.

    Raises:
        DataError: they differ in token ids (hence tokenizer, template or texts) or in those that were
            pooled, in layers or width, or do not say which tokens they were measured on.
    """
    if base.tokens is None or tuned.tokens is None:
        raise DataError(
            "activations without a record of their tokens cannot be compared across checkpoints; capture them again"
        )
    if len(base) != len(tuned):
        raise DataError(f"{len(base)} and {len(tuned)} texts do not match; capture the same texts")
    if base.pool != tuned.pool:
        raise DataError(f"one was pooled by {base.pool!r}, the other by {tuned.pool!r}; use one")
    if (other := base.tokens != tuned.tokens).any():
        raise DataError(
            f"the checkpoints read other token ids in {int(other.sum())} of {len(base)} texts, the first "
            f"being text {int(other.nonzero()[0])}: texts, ranges, chat template or tokenizer differ; "
            "capture the same texts with one tokenizer"
        )
    if base.values.shape != tuned.values.shape or base.layers != tuned.layers:
        raise DataError(
            f"activations of shape {tuple(base.values.shape)} and {tuple(tuned.values.shape)} at layers "
            f"{list(base.layers)} and {list(tuned.layers)} do not match; capture the same layers"
        )


def align(
    tuned: Activations, base: Activations, neutral: tuple[Activations, Activations]
) -> Activations:
    """Rotate a tuned checkpoint's activations onto base's: orthogonal Procrustes on neutral texts.

    The rotation, one per layer, fits the neutral texts of the tuned checkpoint to those of base about
    their means. Where the texts say nothing (they span fewer dimensions than there are) it is kept at
    the identity by a ridge of a thousandth of their mean variance.

    Args:
        tuned: what to rotate.
        base: gives the layers and the tokens to compare with.
        neutral: the neutral texts on base and on the tuned checkpoint.

    Raises:
        DataError: a pair is not comparable; see `check_comparable`.
    """
    from scipy.linalg import orthogonal_procrustes

    check_comparable(base, tuned)
    reference, moved = neutral
    check_comparable(reference, moved)
    values = torch.empty_like(tuned.values)
    for row, layer in enumerate(tuned.layers):
        target = reference.at(layer).double().cpu()
        source = moved.at(layer).double().cpu()
        centre, origin = target.mean(0), source.mean(0)
        ridge = (target - centre).square().mean().sqrt() * (len(target) / 1000) ** 0.5
        anchor = ridge * torch.eye(target.shape[1], dtype=torch.float64)
        rotation, _ = orthogonal_procrustes(
            torch.cat([source - origin, anchor]).numpy(),
            torch.cat([target - centre, anchor]).numpy(),
        )
        turned = (tuned.values[:, row].double().cpu() - origin) @ torch.from_numpy(rotation)
        values[:, row] = (turned + centre).float()
    return replace(tuned, values=values)


def across_checkpoints(
    probe: Probe,
    base: Activations,
    tuned: Activations,
    labels: Labels,
    *,
    groups: Sequence[str],
    neutral: tuple[Activations, Activations],
    folds: int = FOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> Checkpoints:
    """Read one concept on two checkpoints in the three ways that can disagree.

    Frozen alone confuses a concept that moved with one that vanished; refitted alone, a concept that
    is still there with the same one; aligned tells a common rotation from both.

    Args:
        probe: gives the method.
        base, tuned: the same texts on both checkpoints, `[text, layer, d_model]`.
        labels: 0 or 1 for each text.
        groups: family of each text; the folds keep them whole.
        neutral: other texts on base and on the tuned checkpoint, for the alignment.
        folds, resamples, seed: of the cross-validation and its bootstrap.

    Raises:
        DataError: as `fit`; or the measurements are not comparable; see `check_comparable`.
    """
    aligned = align(tuned, base, neutral)
    y, groups = checked_labels(base, labels, groups, probe.method)
    checked_labels(tuned, labels, groups, probe.method)
    splits = splits_of(y[None], groups, folds, seed)
    # The last column learns from all texts: it gives the directions whose cosine is reported.
    rows = torch.ones(folds + 1, len(y), dtype=torch.bool)
    for k, (_, test) in enumerate(splits):
        rows[k, test] = False
    truth = torch.from_numpy(y).expand(folds + 1, -1)
    of_base = estimate(probe.method, base.values, truth, rows, groups)
    of_tuned = estimate(probe.method, tuned.values, truth, rows, groups)
    scores = {
        name: _scores(values, weights, splits)
        for name, values, weights in (
            ("base", base.values, of_base),
            ("frozen", tuned.values, of_base),
            ("refitted", tuned.values, of_tuned),
            ("aligned", aligned.values, of_base),
        )
    }
    drawn = family_weights(len(set(groups)), resamples, np.random.default_rng(seed))
    areas = {}
    for name, found in scores.items():
        area = auroc(found, y)
        bounds = interval(bootstrap_auroc(found, y, groups, drawn))
        areas[name] = Curve(area, *widened(area, bounds, folds))
    brier, error = _calibration(scores["base"], scores["frozen"], y, splits)
    return Checkpoints(
        layers=base.layers,
        auroc=areas,
        cosine=torch.cosine_similarity(of_base[0][-1], of_tuned[0][-1], dim=-1)
        .double()
        .cpu()
        .numpy(),
        norm_drift=(_mean_norm(tuned.values) / _mean_norm(base.values)).numpy(),
        brier=brier,
        calibration_error=error,
    )


def _scores(
    values: Tensor,
    weights: tuple[Tensor, Tensor],
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Float[np.ndarray, "text layer"]:
    """Held-out signed distances from the boundary of each fold's probe."""
    w, b = weights
    lengths = w.norm(dim=-1).clamp_min(1e-12)
    scores = np.empty(values.shape[:2])
    for k, (_, test) in enumerate(splits):
        logits = torch.einsum("nld,ld->nl", values[test], w[k].to(values.dtype)) + b[k]
        scores[test] = (logits / lengths[k]).cpu().numpy()
    return scores


def _calibration(
    base: np.ndarray,
    tuned: np.ndarray,
    y: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Brier score and calibration error of both under base's logistic curve of the other folds, by layer."""
    from sklearn.linear_model import LogisticRegression

    brier = {"base": np.empty(base.shape[1]), "tuned": np.empty(base.shape[1])}
    error = {name: values.copy() for name, values in brier.items()}
    for row in range(base.shape[1]):
        curves = [
            LogisticRegression(C=np.inf).fit(base[train][:, [row]], y[train]) for train, _ in splits
        ]
        for name, scores in (("base", base), ("tuned", tuned)):
            probabilities = np.empty(len(y))
            for curve, (_, test) in zip(curves, splits, strict=True):
                probabilities[test] = curve.predict_proba(scores[test][:, [row]])[:, 1]
            brier[name][row] = np.mean((probabilities - y) ** 2)
            error[name][row] = calibration_error(probabilities, y, np.ones((1, len(y))))[0]
    return brier, error


def _mean_norm(values: Float[Tensor, "text layer d_model"]) -> Float[Tensor, " layer"]:
    return (values.double() - values.double().mean(0)).norm(dim=-1).mean(0).cpu()
