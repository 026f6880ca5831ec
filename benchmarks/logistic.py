"""The logistic probe at all layers, folds and penalties, against scikit-learn's in a loop.

    python benchmarks/logistic.py [MODEL] [SET]

Both fit the same activations of a packaged model, in one process, with the same folds and penalties; the
scaler is part of either fit. Prints seconds, their ratio, and the largest difference of AUROC at any layer
and penalty.
"""

import sys
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import probes
from probes.folds import grouped_folds
from probes.logistic import PENALTIES, layers_at_once, path
from probes.metrics import auroc

FOLDS = 5
MODEL, SET = "gemma-3-270m", "ai-villain-persona"


def ours(values: torch.Tensor, labels: np.ndarray, folds: list) -> np.ndarray:
    """Out-of-fold scores `[penalty, text, layer]`, the folds as columns of one fit."""
    used = torch.ones(len(folds), len(labels))
    for k, (_, test) in enumerate(folds):
        used[k, test] = 0
    truth = torch.from_numpy(labels).float().expand(len(folds), -1)
    scores = np.empty((len(PENALTIES), *values.shape[:2]))
    for layers in layers_at_once(values, columns=len(folds)):
        x = values[:, layers].transpose(0, 1).contiguous()
        for row, (w, b) in enumerate(path(x, truth, used, PENALTIES)):
            found = (w @ x.mT + b[..., None]).numpy()
            for k, (_, test) in enumerate(folds):
                scores[row, test, layers] = found[:, k, test].T
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
    name, which = (sys.argv[1:] + [MODEL, SET][len(sys.argv) - 1 :])[:2]
    pairs = probes.ContrastSet.load(which)
    if "voice" in pairs.columns:
        pairs = pairs.where("voice", "first")
    values = probes.capture(probes.load(name), pairs.texts, pool="mean").values
    labels = np.array(pairs.labels)
    folds = grouped_folds(pairs.groups, FOLDS, seed=0)
    print(f"{name}, {which}: texts, layers, d_model {tuple(values.shape)}", flush=True)
    seconds, areas = {}, {}
    for way, fit in (("ours", ours), ("scikit-learn", theirs)):
        start = time.perf_counter()
        scores = fit(values, labels, folds)
        seconds[way] = time.perf_counter() - start
        areas[way] = np.stack([auroc(part, labels) for part in scores])
        print(f"{way:<13}{seconds[way]:8.2f} s", flush=True)
    print(f"ratio        {seconds['scikit-learn'] / seconds['ours']:8.1f}")
    apart = np.abs(areas["ours"] - areas["scikit-learn"])
    print(f"AUROC        {apart.max():8.4f} apart at most")


if __name__ == "__main__":
    main()
