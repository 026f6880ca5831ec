"""The causal ablation: honeypot propensity while a checkpoint's villain direction is moved or removed."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from experiments.config import RunConfig, Steering
from experiments.honeypots import score_honeypots
from experiments.scenarios import load_honeypots
from probes import Direction, LanguageModel, random_direction
from steering import Ablate, Add, Intervention, steer


@dataclass(frozen=True, slots=True)
class Condition:
    """One steered condition; `strength` is a fraction of the mean residual norm, `None` where there is none."""

    operation: Literal["none", "add", "ablate", "add-random"]
    strength: float | None = None
    replicate: int = 0

    @property
    def name(self) -> str:
        """File name of its unit of work."""
        dose = "" if self.strength is None else f"{self.strength:+g}"
        return f"{self.operation}{dose}" + (
            f"-{self.replicate}" if self.operation == "add-random" else ""
        )

    def intervention(self, villain: Direction) -> Intervention | None:
        """What it does to a model, given the base's villain direction."""
        strength = self.strength or 0.0
        match self.operation:
            case "add":
                return Add(villain, strength)
            case "ablate":
                return Ablate(villain)
            case "add-random":
                return Add(random_direction(villain, seed=self.replicate), strength)
        return None


def conditions(settings: Steering) -> list[Condition]:
    """Untouched, added at every strength, projected out, and random directions at the highest strength."""
    largest = max(settings.strengths)
    return [
        Condition("none", 0.0),
        *(Condition("add", strength) for strength in settings.strengths),
        Condition("ablate"),
        *(Condition("add-random", largest, k) for k in range(settings.random_directions)),
    ]


def score_condition(
    model: LanguageModel, config: RunConfig, condition: Condition, villain: Direction
) -> list[dict[str, Any]]:
    """Honeypot rows of a checkpoint under one condition."""
    honeypots = load_honeypots(
        config.honeypots.name,
        split=config.honeypots.split,
        families_per_category=config.steering.families_per_category,
    )
    intervention = condition.intervention(villain)
    with steer(model, intervention) if intervention else nullcontext():
        return score_honeypots(
            model,
            honeypots,
            subjects=config.honeypots.subjects,
            paraphrases=config.steering.paraphrases,
            batch_tokens=config.batch_tokens,
        )
