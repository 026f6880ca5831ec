"""The audit: whether corpora and evaluation texts are fit to rest conclusions on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from experiments.audit.corpora import contamination_gates, corpus_gates, pairing_gates
from experiments.audit.evaluation import evaluation_gates, evaluation_texts
from experiments.audit.fluency import fluency_gates
from experiments.audit.gates import Gate
from experiments.corpora import ARMS, Document, capacity, generate
from probes import DataError, load
from probes.files import read_rows

MODELS = ("gemma-3-270m", "smollm2-135m-instruct")

__all__ = ["MODELS", "Gate", "audit", "generated", "read_corpora"]


def generated(documents: int, *, seed: int = 0) -> dict[str, list[Document]]:
    """So many documents of every arm, by grammar."""
    return {arm: list(generate(arm, min(documents, capacity(arm)), seed=seed)) for arm in ARMS}


def read_corpora(paths: Sequence[Path]) -> dict[str, list[Document]]:
    """The documents of JSON Lines files, by arm.

    Raises:
        DataError: a row is malformed (file, line and field are named), or an id occurs twice.
    """
    corpora: dict[str, list[Document]] = {}
    for path in paths:
        for document in read_rows(path, Document):
            corpora.setdefault(document.arm, []).append(document)
    for arm, documents in corpora.items():
        if len({document.id for document in documents}) < len(documents):
            raise DataError(f"arm {arm}: an id occurs twice; give each file once")
    return corpora


def audit(
    corpora: Mapping[str, Sequence[Document]], *, models: Sequence[str] = MODELS, jobs: int = -1
) -> list[Gate]:
    """Measure every gate: the shipped evaluation texts, the corpora, and both sides' fluency.

    `jobs` processes share what needs no model; -1 takes one for each core.
    """
    texts = evaluation_texts()
    measures = [
        delayed(_all)(evaluation_gates),
        *(delayed(_all)(corpus_gates, arm, made) for arm, made in corpora.items()),
        *(delayed(_all)(contamination_gates, arm, made, texts) for arm, made in corpora.items()),
        delayed(_all)(pairing_gates, corpora),
    ]
    gates = [*chain.from_iterable(Parallel(n_jobs=jobs)(measures))]
    # A model takes all cores, or the accelerator, by itself.
    return gates + [gate for name in models for gate in fluency_gates(load(name))]


def _all(gates: Callable[..., Iterator[Gate]], *args: Any) -> list[Gate]:
    return list(gates(*args))
