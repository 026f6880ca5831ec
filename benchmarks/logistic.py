"""The logistic probe at all layers, folds and penalties, against scikit-learn's in a loop.

    python benchmarks/logistic.py [TEXTS] [LAYERS] [WIDTH]

Activations are drawn at random with the spectrum of a residual stream (variances falling as a power of
their rank) and a planted concept, the same for both. Prints seconds, their ratio, and the largest
difference of AUROC at any layer and penalty.
"""

import sys
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.folds import grouped_folds
from probes.logistic import PENALTIES, path
from probes.metrics import auroc

FOLDS = 5


def activations(texts: int, layers: int, width: int) -> tuple[torch.Tensor, np.ndarray]:
    """Pairs of texts whose shared content varies along correlated axes, and their labels."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, width + 1) ** -0.5
    values = torch.empty(texts, layers, width)
    labels = torch.arange(texts) % 2
    for layer in range(layers):
        mixing = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        content = torch.randn(texts, width, generator=generator) * spectrum
        concept = torch.randn(width, generator=generator) * spectrum / width**0.5
        values[:, layer] = (content + 2 * labels[:, None] * concept) @ mixing
    return values, labels.numpy()


def ours(values: torch.Tensor, labels: np.ndarray, folds: list) -> np.ndarray:
    """Out-of-fold scores `[penalty, text, layer]`, the folds as columns of one fit."""
    used = torch.ones(len(labels), len(folds))
    for k, (_, test) in enumerate(folds):
        used[test, k] = 0
    truth = torch.from_numpy(labels).float()[:, None].expand(-1, len(folds))
    scores = np.empty((len(PENALTIES), *values.shape[:2]))
    for layer in range(values.shape[1]):
        x = values[:, layer].contiguous()
        for row, (w, b) in enumerate(path(x, truth, used, PENALTIES)):
            found = (x @ w + b).numpy()
            for k, (_, test) in enumerate(folds):
                scores[row, test, layer] = found[test, k]
    return scores


def theirs(values: torch.Tensor, labels: np.ndarray, folds: list) -> np.ndarray:
    """The same scores by one scikit-learn fit each."""
    scores = np.empty((len(PENALTIES), *values.shape[:2]))
    for layer in range(values.shape[1]):
        x = values[:, layer].numpy()
        for row, penalty in enumerate(PENALTIES):
            for train, test in folds:
                model = make_pipeline(
                    StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=2000)
                )
                model.fit(x[train], labels[train])
                scores[row, test, layer] = model.decision_function(x[test])
    return scores


def main() -> None:
    """Time both in one process and compare."""
    sizes = [int(argument) for argument in sys.argv[1:]]
    values, labels = activations(*(sizes + [1024, 6, 640][len(sizes) :]))
    folds = grouped_folds([str(k // 2) for k in range(len(labels))], FOLDS, seed=0)
    seconds, areas = {}, {}
    for name, way in (("ours", ours), ("scikit-learn", theirs)):
        start = time.perf_counter()
        scores = way(values, labels, folds)
        seconds[name] = time.perf_counter() - start
        areas[name] = np.stack([auroc(part, labels) for part in scores])
        print(f"{name:<13}{seconds[name]:8.2f} s", flush=True)
    print(f"ratio        {seconds['scikit-learn'] / seconds['ours']:8.1f}")
    print(f"AUROC        {np.abs(areas['ours'] - areas['scikit-learn']).max():8.4f} apart at most")


if __name__ == "__main__":
    main()
