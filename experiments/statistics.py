"""Inference: nested bootstrap over seeds, scenario families and paraphrases, paired across arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from probes import DataError
from probes.metrics import interval

Panel = Float[np.ndarray, "#seed family paraphrase"]


@dataclass(frozen=True, slots=True)
class Effect:
    """An estimate with its 95 % interval.

    Attributes:
        estimate: on all of the data.
        low, high: percentiles of the bootstrap.
        p: two-sided bootstrap p-value against no effect (0 for a difference, 1 for a fold), or `None`.
        families, seeds: how many of each the interval rests on.
    """

    estimate: float
    low: float
    high: float
    p: float | None
    families: int
    seeds: int


class Bootstrap:
    """Resamples of seeds, of families, and of paraphrases within a drawn family.

    The weights are drawn once, so that every arm and every contrast sees the same resamples: a
    family that makes every checkpoint misbehave cancels from a difference. With one seed or one
    paraphrase that level does not vary, and the interval does not cover it.
    """

    def __init__(self, panel_shape: tuple[int, int, int], resamples: int, seed: int) -> None:
        seeds, families, paraphrases = panel_shape
        rng = np.random.default_rng(seed)
        self.shape = panel_shape
        self.over_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
        drawn = rng.multinomial(families, np.full(families, 1 / families), size=resamples)
        # A family drawn c times has c times its paraphrases resampled: one multinomial of their total.
        within = rng.multinomial(drawn * paraphrases, np.full(paraphrases, 1 / paraphrases))
        self.over_cells = within / (families * paraphrases)

    def means(self, panel: Panel) -> Float[np.ndarray, " resample"]:
        """Mean of the panel in every resample; a panel of one seed (the base) stands for all seeds."""
        panel = np.broadcast_to(panel, self.shape)
        return np.einsum("bs,sfp,bfp->b", self.over_seeds, panel, self.over_cells, optimize=True)

    def mean(self, panel: Panel, transform: Callable = np.asarray) -> Effect:
        """The panel's mean, on the scale that `transform` maps it to."""
        draws = transform(self.means(panel))
        return self._effect(float(transform(panel.mean())), draws, None, len(panel))

    def difference(self, panel: Panel, reference: Panel) -> Effect:
        """Mean of the panel minus mean of the reference."""
        draws = self.means(panel) - self.means(reference)
        return self._effect(
            float(panel.mean() - reference.mean()), draws, 0.0, max(len(panel), len(reference))
        )

    def fold(self, panel: Panel, reference: Panel, transform: Callable = np.asarray) -> Effect:
        """Mean of the reference divided by mean of the panel: above 1 where the panel is lower."""
        draws = transform(self.means(reference)) / transform(self.means(panel))
        return self._effect(
            float(transform(reference.mean()) / transform(panel.mean())),
            draws,
            1.0,
            max(len(panel), len(reference)),
        )

    def _effect(self, estimate: float, draws: np.ndarray, null: float | None, seeds: int) -> Effect:
        low, high = interval(draws)
        p = None
        if null is not None:
            tail = min((draws <= null).mean(), (draws >= null).mean())
            p = float(min(1.0, 2 * max(tail, 1 / len(draws))))
        return Effect(estimate, float(low), float(high), p, self.shape[1], seeds)


def panel_of(
    rows: pd.DataFrame, value: str, *, paraphrase: str | None = None
) -> tuple[Panel, list[str]]:
    """`[seed, family, paraphrase]` of a column, and the families in their order.

    `rows` has columns seed, family, and the one named by `paraphrase` (if any).

    Raises:
        DataError: some seed lacks a family or paraphrase that another has.
    """
    keys = ["seed", "family", *([paraphrase] if paraphrase else [])]
    cells = rows.set_index(keys)[value].sort_index()
    sizes = [cells.index.get_level_values(key).nunique() for key in keys]
    if not cells.index.is_unique or len(cells) != np.prod(sizes):
        raise DataError(
            f"{value}: {len(cells)} rows do not fill {' × '.join(map(str, sizes))} {' × '.join(keys)}; "
            "every checkpoint must be scored on the same items"
        )
    families = list(cells.index.get_level_values("family").unique())
    return cells.to_numpy(dtype=float).reshape(*sizes[:2], -1), families


def benjamini_hochberg(p: Sequence[float]) -> np.ndarray:
    """Adjusted p-values that control the false discovery rate."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(np.asarray(p, dtype=float), method="bh")
