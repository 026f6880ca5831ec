"""Folds that keep families whole."""

from collections.abc import Sequence

import numpy as np

from probes.errors import DataError


def grouped_folds(
    groups: Sequence[str], folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Train and test rows of each fold, no family in both; raises `DataError` when families are too few."""
    from sklearn.model_selection import GroupKFold

    families = len(set(groups))
    if families < folds:
        raise DataError(
            f"{families} families cannot fill {folds} folds; pass more families or fewer folds"
        )
    splitter = GroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(groups)), groups=groups))
