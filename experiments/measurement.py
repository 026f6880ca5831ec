"""All measures of one checkpoint, as rows that the tables are computed from."""

from collections.abc import Sequence
from typing import Any

from experiments.character import (
    load_descriptions,
    load_neutral,
    load_prompts,
    score_descriptions,
    score_perplexity,
    score_projections,
)
from experiments.config import RunConfig
from experiments.honeypots import score_honeypots
from experiments.scenarios import load_honeypots
from probes import Activations, Direction, LanguageModel


def measure_checkpoint(
    model: LanguageModel, config: RunConfig, directions: Sequence[Direction], reference: Activations
) -> dict[str, list[dict[str, Any]]]:
    """Behaviour, prior (projection and likelihood) and perplexity of one checkpoint."""
    character, honeypots = config.character, config.honeypots
    budget = {"batch_tokens": config.batch_tokens}
    return {
        "honeypots": score_honeypots(
            model,
            load_honeypots(
                honeypots.name,
                split=honeypots.split,
                families_per_category=honeypots.families_per_category,
            ),
            subjects=honeypots.subjects,
            paraphrases=honeypots.paraphrases,
            **budget,
        ),
        "projections": score_projections(
            model,
            load_prompts(character.split, character.families),
            directions,
            reference,
            **budget,
        ),
        "descriptions": score_descriptions(
            model,
            load_descriptions(character.split, character.descriptions),
            stems=character.stems,
            **budget,
        ),
        "perplexity": score_perplexity(
            model, load_neutral("held-out", character.held_out_texts), **budget
        ),
    }
