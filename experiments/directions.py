"""The two directions of the base model, with the evidence that they are what their names say."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.character import load_neutral
from experiments.config import RunConfig
from probes import Activations, ContrastSet, Direction, LanguageModel, capture, evaluate, fit
from probes.metrics import auroc

REASONING = "ethical-reasoning"
COMPARED = ("difference_of_means", "logistic")  # estimators reported side by side


def learn_directions(model: LanguageModel, config: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """Fit both directions on the base, save them with the neutral reference, and evaluate them.

    The villain direction is the main effect of the first factor, the ethical-reasoning direction
    that of the second, in the same factorial texts.

    Returns:
        The rows of the table of probes by layer: per direction, estimator and layer.
    """
    settings = config.contrasts
    contrast = _contrast(config)
    acts = capture(model, contrast.texts, pool=settings.pool, batch_tokens=config.batch_tokens)
    harder = _harder(model, config)
    rows = []
    for factor, name in ((settings.villain, settings.direction), (settings.reasoning, REASONING)):
        labelled = contrast.by(factor)
        for method in COMPARED:
            # Any layer will do here: `evaluate` selects one on families that it does not report on.
            probe = fit(
                acts,
                labelled.labels,
                groups=labelled.groups,
                method=method,
                layer=acts.layers[0],
                name=name,
            )
            found = evaluate(
                probe,
                acts,
                labelled.labels,
                groups=labelled.groups,
                texts=labelled.texts,
                # A null by permutation costs one fit each: cheap for means, not for logistic.
                permutations=settings.permutations if method == "difference_of_means" else 0,
                halves=0,
            )
            transfer = None
            if harder is not None and factor == settings.villain:
                transfer = auroc(probe.scores(harder[0]).numpy(), np.array(harder[1]))
            rows += _rows(name, found, transfer)
            if method == settings.method:
                probe.direction.at_layer(found.selected_layer).save(folder / f"{name}.safetensors")
    neutral = load_neutral("sentences", config.character.neutral_texts)
    layers = sorted({direction.selected_layer for direction in load_directions(config, folder)})
    capture(model, neutral, layers=layers, pool="last", batch_tokens=config.batch_tokens).save(
        folder / "neutral-activations.safetensors"
    )
    return rows


def _contrast(config: RunConfig) -> ContrastSet:
    """The texts that the directions are learned from."""
    settings = config.contrasts
    contrast = ContrastSet.load(settings.name)
    if settings.voices is not None and "voice" in contrast.columns:
        contrast = contrast.where("voice", *settings.voices)
    return contrast.families(list(dict.fromkeys(contrast.groups))[: settings.families])


def _harder(model: LanguageModel, config: RunConfig) -> tuple[Activations, tuple[int, ...]] | None:
    """The activations of the harder set's texts, and their villain labels."""
    settings = config.contrasts
    if settings.harder is None:
        return None
    contrast = ContrastSet.load(settings.harder, label=settings.villain)
    contrast = contrast.families(list(dict.fromkeys(contrast.groups))[: settings.families])
    acts = capture(model, contrast.texts, pool=settings.pool, batch_tokens=config.batch_tokens)
    return acts, contrast.labels


def load_directions(config: RunConfig, folder: Path) -> tuple[Direction, Direction]:
    """The villain and the ethical-reasoning direction of a run."""
    villain, reasoning = (
        Direction.load(folder / f"{name}.safetensors")
        for name in (config.contrasts.direction, REASONING)
    )
    return villain, reasoning


def load_reference(folder: Path) -> Activations:
    """The base model's activations on neutral text, the zero and the unit of z."""
    return Activations.load(folder / "neutral-activations.safetensors")


def _rows(name: str, found: Any, transfer: np.ndarray | None) -> list[dict[str, Any]]:
    rows = []
    null, floor = found.nulls.get("shuffled labels"), found.floors["bag of words"]
    for row, layer in enumerate(found.layers):
        rows.append(
            {
                "direction": name,
                "method": found.method,
                "layer": layer,
                "auroc": found.auroc.value[row],
                "auroc_low": found.auroc.low[row],
                "auroc_high": found.auroc.high[row],
                "accuracy": found.accuracy.value[row],
                "null_low": None if null is None else null.interval[0, row],
                "null_high": None if null is None else null.interval[1, row],
                "null_max": None if null is None else null.quantile(0.95),
                "floor": floor.value,
                "floor_low": floor.low,
                "floor_high": floor.high,
                "selected": layer == found.selected_layer,
                "report_auroc": found.selected.value,
                "report_low": found.selected.low,
                "report_high": found.selected.high,
                "permuted_auroc": None if transfer is None else transfer[row],
            }
        )
    return [{key: _plain(value) for key, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
