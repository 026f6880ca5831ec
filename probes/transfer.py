"""`transfer`: does a direction learned in one domain (voice, category, set) hold in another?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from probes.activations import Activations
from probes.errors import DataError
from probes.estimators import estimate
from probes.fitting import FOLDS, Labels, Probe, checked_labels
from probes.folds import grouped_folds
from probes.metrics import auroc, bootstrap_auroc, family_weights, interval, widened


@dataclass(frozen=True, slots=True)
class Transfer:
    """AUROC of a probe trained in one domain (row) and tested in another (column).

    Attributes:
        domains: the names of rows and columns.
        layer: the block index that was read.
        auroc, low, high: `[domain, domain]`, with the 95 % interval of a bootstrap over the families of
            the tested domain, widened as in `evaluate`. No test family was in the training folds, in
            whatever domain.
    """

    domains: tuple[str, ...]
    layer: int
    auroc: Float[np.ndarray, "domain domain"]
    low: Float[np.ndarray, "domain domain"]
    high: Float[np.ndarray, "domain domain"]

    def __str__(self) -> str:
        width = max(21, *(len(name) for name in self.domains))
        lines = [f"layer {self.layer}; trained on the row, tested on the column: AUROC"]
        lines.append(" " * width + "".join(f"  {name:<{width}}" for name in self.domains))
        for row, name in enumerate(self.domains):
            cells = [
                f"{self.auroc[row, k]:.3f} [{self.low[row, k]:.3f}, {self.high[row, k]:.3f}]"
                for k in range(len(self.domains))
            ]
            lines.append(f"{name:<{width}}" + "".join(f"  {cell:<{width}}" for cell in cells))
        return "\n".join(lines)


def transfer(
    probe: Probe,
    acts: Activations,
    labels: Labels,
    *,
    groups: Sequence[str],
    domains: Sequence[str],
    layer: int | None = None,
    folds: int = FOLDS,
    resamples: int = 1000,
    seed: int = 0,
) -> Transfer:
    """Train the probe's method in every domain and test it in every other, family by family.

    Args:
        probe: gives the method and the layer.
        acts: pooled activations of all domains' texts.
        labels: 0 or 1 for each text.
        groups: family of each text; a family may have texts in several domains.
        domains: domain of each text, e.g. a column of a `ContrastSet`.
        layer: block index, if not the probe's.
        folds: of the grouped cross-validation, the same for all domains.
        resamples: bootstrap resamples of families.
        seed: of folds and resamples.

    Raises:
        DataError: as `fit`; or `domains` has another length, or one domain only; or a domain lacks a
            class in a training fold.
    """
    y, groups = checked_labels(acts, labels, groups, probe.method)
    if len(domains) != len(acts):
        raise DataError(f"{len(domains)} domains were given for {len(acts)} texts; pass one each")
    domain_of = np.array([str(domain) for domain in domains])
    names = tuple(dict.fromkeys(domain_of.tolist()))
    if len(names) < 2:
        raise DataError(f"all texts are of domain {names[0]!r}; transfer needs at least two")
    layer = probe.layer if layer is None else layer
    values = acts.at(layer)[:, None]
    rows, scores = [], np.empty((len(names), len(y)), dtype=np.float32)
    splits = grouped_folds(groups, folds, seed)
    for train, _ in splits:
        for name in names:
            used = np.zeros(len(y), dtype=bool)
            used[train] = domain_of[train] == name
            if len(set(y[used].tolist())) < 2:
                raise DataError(
                    f"domain {name!r} lacks a class in a training fold; give it more families"
                )
            rows.append(used)
    weights, biases = estimate(
        probe.method,
        values,
        torch.from_numpy(y).expand(len(rows), -1),
        torch.from_numpy(np.stack(rows)),
        groups,
    )
    lengths = weights[:, 0].norm(dim=-1).clamp_min(1e-12)
    for k, (_, test) in enumerate(splits):
        fold = slice(k * len(names), (k + 1) * len(names))
        projected = weights[fold, 0].to(values.dtype) @ values[test, 0].T + biases[fold]
        scores[:, test] = (projected / lengths[fold, None]).cpu().numpy()
    return Transfer(
        names, layer, *_areas(scores, y, groups, domain_of, names, folds, resamples, seed)
    )


def _areas(
    scores: np.ndarray,
    y: np.ndarray,
    groups: Sequence[str],
    domain_of: np.ndarray,
    names: Sequence[str],
    folds: int,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUROC and its bounds, each `[trained, tested]`."""
    found = np.empty((3, len(names), len(names)))
    rng = np.random.default_rng(seed)
    for column, name in enumerate(names):
        here = np.flatnonzero(domain_of == name)
        own = [groups[row] for row in here.tolist()]
        weights = family_weights(len(set(own)), resamples, rng)
        area = auroc(scores[:, here].T, y[here])
        draws = interval(bootstrap_auroc(scores[:, here].T, y[here], own, weights))
        found[0, :, column] = area
        found[1:, :, column] = widened(area, draws, folds)
    return found[0], found[1], found[2]
