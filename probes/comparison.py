"""`compare`: are two directions the same, as far as they can be known?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from probes.activations import Activations
from probes.directions import Direction
from probes.errors import DataError, LayerError
from probes.metrics import interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cosines of two directions, each `[layer]` unless said otherwise.

    Attributes:
        layers: the block indices that both have.
        cosine: of the two unit vectors; 1 for the same direction, −1 for its opposite.
        corrected: divided by the root of the product of both reliabilities (Spearman's correction for
            attenuation), or `None` if these were not given. It may exceed 1 by chance; NaN where a
            reliability is not positive.
        null_interval: `[2, layer]`, central 95 % of the cosine of the first with random directions.
        p_value: share of random directions whose cosine is as large in size.
    """

    layers: tuple[int, ...]
    cosine: Float[np.ndarray, " layer"]
    corrected: Float[np.ndarray, " layer"] | None
    null_interval: Float[np.ndarray, "2 layer"]
    p_value: Float[np.ndarray, " layer"]

    def __str__(self) -> str:
        lines = ["layer  cosine  corrected  null 95 %          p"]
        for row, layer in enumerate(self.layers):
            corrected = "" if self.corrected is None else f"{self.corrected[row]:.3f}"
            low, high = self.null_interval[:, row]
            lines.append(
                f"{layer:5d}  {self.cosine[row]:6.3f}  {corrected:>9}  [{low:6.3f}, {high:6.3f}]  {self.p_value[row]:.3f}"
            )
        return "\n".join(lines)


def compare(
    a: Direction,
    b: Direction,
    *,
    acts: Activations | None = None,
    reliabilities: tuple[Sequence[float], Sequence[float]] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Cosine of two directions at every layer that both have, against chance and against their noise.

    Args:
        a: a direction.
        b: another of the same model family.
        acts: activations whose covariance the random directions share: where activations vary little
            in most directions, two unrelated concepts are far more alike than two points on a sphere.
            Without them the null is uniform on the sphere.
        reliabilities: of both directions at the shared layers, as `Evaluation.reliability` gives them.
        draws: random directions.
        seed: of the draws.

    Raises:
        DataError: the widths differ, or a reliability has another length.
        LayerError: they share no layer, or the activations lack one.
    """
    if a.d_model != b.d_model:
        raise DataError(
            f"direction {a.name!r} has width {a.d_model} and {b.name!r} {b.d_model}; they come from other models"
        )
    layers = tuple(layer for layer in a.layers if layer in b.layers)
    if not layers:
        raise LayerError(
            f"the directions share no layer: {list(a.layers)} and {list(b.layers)}; fit both at the same"
        )
    first = torch.stack([a.at(layer) for layer in layers]).double()
    second = torch.stack([b.at(layer) for layer in layers]).double()
    cosine = (first * second).sum(-1).numpy()
    generator = torch.Generator().manual_seed(seed)
    null = np.empty((draws, len(layers)))
    for row, layer in enumerate(layers):
        if acts is None:
            drawn = torch.randn(draws, a.d_model, generator=generator, dtype=torch.float64)
        else:
            x = acts.at(layer).double().cpu()
            weights = torch.randn(draws, len(x), generator=generator, dtype=torch.float64)
            drawn = weights @ (x - x.mean(0))
        null[:, row] = (torch.nn.functional.normalize(drawn, dim=-1) @ first[row]).numpy()
    corrected = None
    if reliabilities is not None:
        product = np.prod([_checked(values, layers) for values in reliabilities], axis=0)
        corrected = cosine / np.sqrt(np.where(product > 0, product, np.nan))
    return Comparison(
        layers,
        cosine,
        corrected,
        interval(null),
        (1 + (np.abs(null) >= np.abs(cosine)).sum(0)) / (1 + draws),
    )


def _checked(values: Sequence[float], layers: Sequence[int]) -> np.ndarray:
    found = np.asarray(values, dtype=float)
    if found.shape != (len(layers),):
        raise DataError(
            f"{found.size} reliabilities were given for {len(layers)} shared layers; pass one each"
        )
    # Two directions that are both unreliable upside down are not reliable together.
    return np.where(found > 0, found, np.nan)
