"""`Evaluation`: what is known about a direction on families that it has not seen, as figures and as a table."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probes.controls import Null


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure at every layer with its 95 % interval, each `[layer]`."""

    value: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]

    def at(self, row: int) -> Estimate:
        """The figure of one row of the layer axis."""
        return Estimate(float(self.value[row]), float(self.low[row]), float(self.high[row]))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found. Intervals are 95 % bootstrap percentiles over families.

    Those of cross-validated figures are widened, because the folds share their training texts: by
    √(1 + k/(k−1)) for k folds, the correction of Nadeau & Bengio (2003). Without it an interval for
    shuffled labels covers 0.5 only three times in four.

    Attributes:
        layers: block indices.
        families: how many there are.
        auroc, accuracy, within_pair: by layer, grouped cross-validation over all families. Accuracy is
            at the probe's own threshold; `within_pair` is the share of pairs of one family, one text of
            each class, that are ranked rightly, or `None` where no family holds both classes.
        selected_layer: best layer by cross-validation inside the selection half of the families.
        report: at that layer on the other half, which neither fitting nor selection has seen: "AUROC",
            "accuracy", "within-pair accuracy", "Brier score", "calibration error" (both of
            probabilities by a logistic curve over the selection half's held-out scores), and with
            neutral texts "TPR at 1 % FPR on neutral text".
        nulls: "shuffled labels", "random directions, covariance", "random directions, norm".
        floors: "bag of words" (TF-IDF, 1–2 grams) and "length", on the same folds, if texts were given.
        selectivity: AUROC at the selected layer, cross-validated, less that of control tasks.
        reliability: `[layer]`, of split halves; see `probes.controls`.
        top_share: `[layer]`, share of the direction in its ten largest coordinates.
    """

    method: str
    layers: tuple[int, ...]
    families: int
    auroc: Curve
    accuracy: Curve
    within_pair: Curve | None
    selected_layer: int
    report: Mapping[str, Estimate]
    nulls: Mapping[str, Null]
    floors: Mapping[str, Estimate]
    selectivity: float | None
    reliability: Float[np.ndarray, " layer"] | None
    top_share: Float[np.ndarray, " layer"]

    @property
    def selected(self) -> Estimate:
        """AUROC at the selected layer on families that did not select it."""
        return self.report["AUROC"]

    def p_value(self, null: str) -> float:
        """Of the best layer's cross-validated AUROC under the null of the best layer."""
        return self.nulls[null].p_value(float(self.auroc.value.max()))

    def __str__(self) -> str:
        lines = [
            f"{self.method}, {self.families} families, 95 % intervals over families",
            "layer  AUROC                 accuracy  within pair  reliability  top ten",
        ]
        for row, layer in enumerate(self.layers):
            pair = "" if self.within_pair is None else f"{self.within_pair.value[row]:.3f}"
            steady = "" if self.reliability is None else f"{self.reliability[row]:.2f}"
            mark = "  <- selected" if layer == self.selected_layer else ""
            lines.append(
                f"{layer:5d}  {self.auroc.at(row)}  {self.accuracy.value[row]:8.3f}  {pair:>11}  "
                f"{steady:>11}  {self.top_share[row]:7.2f}{mark}"
            )
        lines.append(f"layer {self.selected_layer}, on families not used for selecting it:")
        lines += [f"  {name}: {figure}" for name, figure in self.report.items()]
        if self.selectivity is not None:
            lines.append(f"AUROC above control tasks: {self.selectivity:.3f}")
        for name, null in self.nulls.items():
            lines.append(
                f"{name}, best layer: 99th percentile {null.quantile(0.99):.3f}, p = {self.p_value(name):.3f}"
            )
        lines += [f"{name}: {figure}" for name, figure in self.floors.items()]
        return "\n".join(lines)
