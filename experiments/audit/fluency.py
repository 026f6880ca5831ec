"""Gates that need a model: two sides made of the same words must be equally fluent."""

from collections.abc import Iterator

import numpy as np

from experiments.audit.evaluation import permuted_pairs, word_matched_options
from experiments.audit.gates import Gate, within
from experiments.honeypots import NEUTRAL_PROMPT
from experiments.likelihood import continuation_likelihoods
from probes import LanguageModel
from probes.conversion import cache_dir
from probes.files import read_json, sha256_json, write_json

MARGIN = 0.03  # nats per token


def fluency_gates(model: LanguageModel, *, batch_tokens: int = 4096) -> Iterator[Gate]:
    """Mean difference of log-likelihood per token under a prompt about nobody, villain side minus other.

    Without this, training that makes a model more fluent in the topic would pass for a change of
    character: it favours whichever side is the better English.
    """
    for where, (villain, principled) in (
        ("permuted-pairs", permuted_pairs()),
        ("word-matched options", word_matched_options()),
    ):
        # Minutes on a CPU, and always the same: kept by everything that it depends on.
        key = sha256_json([model.identity, NEUTRAL_PROMPT, villain, principled])
        kept = cache_dir() / "fluency" / f"{key}.json"
        if not kept.exists():
            differences = fluency_differences(model, villain, principled, batch_tokens=batch_tokens)
            write_json(kept, float(differences.mean()))
        yield within(
            "fluency of the villain side, nats per token",
            f"{where}, {model.name}",
            read_json(kept),
            -MARGIN,
            MARGIN,
        )


def fluency_differences(
    model: LanguageModel, villain: list[str], principled: list[str], *, batch_tokens: int = 4096
) -> np.ndarray:
    """Per pair the villain side's mean log-likelihood per token less the principled side's."""
    scored = continuation_likelihoods(
        model, [NEUTRAL_PROMPT], [[*villain, *principled]], batch_tokens=batch_tokens
    )[0]
    nats = np.array([likelihood.per_token for likelihood in scored])
    return nats[: len(villain)] - nats[len(villain) :]
