"""What a classifier can tell from the surface: bags of words, length, and balance."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from experiments.audit.overlap import words
from probes.controls import bag_of_words_scores
from probes.metrics import auroc


def bag_of_words_auroc(texts: Sequence[str], labels: Sequence[int], groups: Sequence[str]) -> float:
    """AUROC of TF-IDF (1–2 grams) and logistic regression, in grouped cross-validation."""
    y = np.asarray(labels)
    return float(auroc(bag_of_words_scores(texts, y, groups)[:, None], y)[0])


def length_auroc(texts: Sequence[str], labels: Sequence[int]) -> float:
    """AUROC of the length in characters or in words, whichever tells more, in either direction."""
    y = np.asarray(labels)
    areas = [
        float(auroc(np.array([len(f) for f in forms], float)[:, None], y)[0])
        for forms in (texts, [text.split() for text in texts])
    ]
    return max(max(area, 1 - area) for area in areas)


def same_words(first: str, second: str) -> bool:
    """Whether two texts are made of the same multiset of words, and yet differ."""
    return Counter(words(first)) == Counter(words(second)) and words(first) != words(second)


def imbalance(values: Sequence[object]) -> int:
    """How much oftener the commonest value occurs than the rarest; 0 is exact balance."""
    counts = Counter(values).values()
    return max(counts) - min(counts)
