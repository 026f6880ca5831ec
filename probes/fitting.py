"""`fit`: labelled activations → a `Probe`, one linear classifier per layer with one layer selected."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.activations import Activations
from probes.directions import Direction
from probes.errors import DataError
from probes.estimators import ESTIMATORS, estimate
from probes.folds import grouped_folds
from probes.metrics import auroc

FOLDS = 5

Labels = Sequence[int] | np.ndarray | Tensor
"""Zeros and ones, one per text."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe.

    Attributes:
        direction: unit vectors per layer; its `layer` is the probe's.
        thresholds: `[layer]`, the projection at which the predicted class changes.
        method: the estimator that made it.
    """

    direction: Direction
    thresholds: Float[Tensor, " layer"]
    method: str

    @property
    def layer(self) -> int:
        """The selected layer."""
        return self.direction.selected_layer

    def score(self, acts: Activations, layer: int | None = None) -> Float[Tensor, " text"]:
        """Signed distance of each text from the boundary, positive where the concept is predicted.

        Raises:
            LayerError: the activations lack the layer.
            DataError: they come from a model of another width, or are not finite.
        """
        return self.scores(acts)[:, self.direction.row_of(self.layer if layer is None else layer)]

    def scores(self, acts: Activations) -> Float[Tensor, "text layer"]:
        """`score` at all of the probe's layers."""
        return self.direction.project(acts) - self.thresholds


def fit(
    acts: Activations,
    labels: Labels,
    *,
    groups: Sequence[str] | None = None,
    method: str = "logistic",
    layer: int | None = None,
    name: str = "",
    seed: int = 0,
) -> Probe:
    """Fit a linear probe at every layer.

    Args:
        acts: pooled activations.
        labels: 0 or 1 for each text; 1 means that the concept is present.
        groups: family of each text, kept whole when the layer is selected; by default every text is
            a family of its own.
        method: "difference_of_means", "lat", "lda" or "logistic"; see `probes.estimators`.
        layer: block index to use; if not given, the one with the best grouped cross-validated AUROC
            on these very data. Report a figure for it from `evaluate`, which separates the two.
        name: the concept, kept with the direction.
        seed: of the folds.

    Raises:
        DataError: labels are not 0/1, hold one class, or differ in number from the texts; activations
            are not finite; there are fewer families than folds; `method` is unknown.
        LayerError: `layer` was not captured.
    """
    y, groups = checked_labels(acts, labels, groups, method)
    everything = torch.ones(1, len(y), dtype=torch.bool)
    weights, biases = estimate(method, acts.values, torch.from_numpy(y)[None], everything, groups)
    weights, biases = weights.cpu(), biases.cpu()
    lengths = weights[0].norm(dim=-1)
    if layer is None:
        layer = acts.layers[0]
        if len(acts.layers) > 1:
            scores = out_of_fold_scores(acts.values, y[None], groups, method, seed=seed)[0]
            layer = acts.layers[int(np.argmax(auroc(scores, y)))]
    acts.row_of(layer)
    provisional = Direction.from_vectors(weights[0], acts.layers)
    direction = Direction.from_vectors(
        weights[0],
        acts.layers,
        scales=provisional.project(acts).double().std(0),
        norms=acts.norms,
        layer=layer,
        name=name,
        provenance={"method": method, "pool": acts.pool, "model": acts.model, "texts": len(acts)},
    )
    return Probe(direction, -biases[0] / lengths, method)


def checked_labels(
    acts: Activations, labels: Labels, groups: Sequence[str] | None, method: str
) -> tuple[np.ndarray, list[str]]:
    """Labels as an integer array and groups as strings, after every check that fitting needs."""
    if method not in ESTIMATORS:
        raise DataError(f"method {method!r} is unknown; use one of {', '.join(ESTIMATORS)}")
    y = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if y.shape != (len(acts),):
        raise DataError(
            f"{y.size} labels were given for {len(acts)} texts; pass one 0 or 1 per text"
        )
    if not np.isin(y, (0, 1)).all():
        raise DataError(f"labels must be 0 or 1; found {sorted(set(y.tolist()) - {0, 1})[:3]}")
    if len(np.unique(y)) < 2:
        raise DataError(f"all {y.size} labels are {int(y[0])}; a probe needs texts of both classes")
    groups = (
        [str(k) for k in range(len(acts))] if groups is None else [str(group) for group in groups]
    )
    if len(groups) != len(acts):
        raise DataError(f"{len(groups)} groups were given for {len(acts)} texts; pass one per text")
    acts.check_finite()
    return y.astype(np.int64), groups


def splits_of(
    labels: Int[np.ndarray, "labelling text"], groups: Sequence[str], folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test rows of grouped folds, every training part with both classes of every labelling.

    Raises:
        DataError: there are fewer families than folds, or a fold's training part lacks a class.
    """
    splits = grouped_folds(groups, folds, seed)
    for train, _ in splits:
        if (labels[:, train].min(1) == labels[:, train].max(1)).any():
            raise DataError(
                "a training fold holds one class only; spread the classes over more families"
            )
    return splits


def out_of_fold_scores(
    values: Float[Tensor, "text layer d_model"],
    labels: np.ndarray,
    groups: Sequence[str],
    method: str,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Float[np.ndarray, "labelling text layer"]:
    """Scores of every text by a probe fitted on the folds without its family, for each labelling `[labelling, text]`.

    Raises:
        DataError: there are fewer families than folds, or a fold's training part lacks a class.
    """
    splits = splits_of(labels, groups, folds, seed)
    rows = torch.zeros(len(splits), len(groups), dtype=torch.bool)
    for k, (train, _) in enumerate(splits):
        rows[k, train] = True
    # One column for each fold and labelling.
    weights, biases = estimate(
        method,
        values,
        torch.from_numpy(labels).repeat(len(splits), 1),
        rows.repeat_interleave(len(labels), 0),
        groups,
    )
    lengths = weights.norm(dim=-1).clamp_min(1e-12)
    scores = np.empty((*labels.shape, values.shape[1]), dtype=np.float32)
    for k, (_, test) in enumerate(splits):
        fold = slice(k * len(labels), (k + 1) * len(labels))
        projected = torch.einsum("nld,pld->pnl", values[test], weights[fold].to(values.dtype))
        distances = (projected + biases[fold, None]) / lengths[fold, None]
        scores[:, test] = distances.cpu().numpy()
    return scores
