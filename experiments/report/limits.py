"""The limits that apply to a run: said in the report right after what was found."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.claims import CLAIMS
from experiments.report.findings import SPECIFIC, beyond_words, treatment_arm

SMALL_MODEL = 3e9  # parameters
FEW_SEEDS, FEW_FAMILIES = 4, 20
POOLING = (
    "The directions are learned from the mean over the tokens of short texts and read at the last "
    "token of a question, where nothing but this run says that they mean the same."
)


def limits(run: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Plain sentences on what this run cannot show, each from its configuration or its tables."""
    return [
        _model(run.get("model") or {}),
        _seeds(tables["propensity"]),
        _families(run.get("config") or {}, tables["propensity"]),
        _dose(tables["training"]),
        *_reading(tables["probe_layers"], tables["claims"]),
        POOLING,
        *_steering(tables["dose_response"], tables["propensity"]),
        _options(),
        _topic(tables),
        "A projection says that activations resemble those of texts about villains that we wrote; "
        "it does not say that the model intends anything. Whether a direction carries behaviour "
        "is tested only where it is added or ablated.",
        "q values are corrected for the number of comparisons in this run (Benjamini–Hochberg). "
        "Whatever is not among the claims fixed beforehand is exploratory.",
    ]


def _model(model: Mapping[str, Any]) -> str:
    name, size = model.get("name", "the model"), model.get("parameters")
    if not size:
        return f"One model was tested, {name}; others may differ."
    text = f"{size / 1e9:.1f} billion" if size >= 1e9 else f"{size / 1e6:.0f} million"
    sentence = f"One model was tested, {name}, with {text} parameters"
    if size < SMALL_MODEL:
        return f"{sentence}. So small a model says little about what larger ones would do."
    return f"{sentence}; others may differ."


def _seeds(propensity: pd.DataFrame) -> str:
    # Base is not trained: its own count of seeds says nothing.
    seeds = _least(propensity[propensity["arm"] != "base"]["seeds"])
    if seeds == 0:
        return "No arm was trained: nothing here is about training."
    if seeds == 1:
        return (
            "Each arm was trained once. The intervals hold no variation between training runs, "
            "and any difference may be an accident of this one."
        )
    sentence = f"Each arm was trained with {seeds} seeds"
    if seeds < FEW_SEEDS:
        return (
            f"{sentence}. So few say little about how training runs vary: the intervals are weak "
            "in this respect, and probably too narrow."
        )
    return f"{sentence}; the intervals include how these vary."


def _families(config: Mapping[str, Any], propensity: pd.DataFrame) -> str:
    if propensity.empty:
        return "Propensity was not measured in this run."
    families, paraphrases = _least(propensity["families"]), _least(propensity["paraphrases"])
    split = (config.get("honeypots") or {}).get("split", "unknown")
    sentence = (
        f"Propensity rests on {families} scenario families in {paraphrases} "
        f"wording{'' if paraphrases == 1 else 's'} each (paraphrases times subjects), "
        f"from the {split} split"
    )
    if split != "report":
        sentence += (
            ", which is not the one set aside for reporting: these numbers are for trying out, "
            "not for conclusions"
        )
    if families < FEW_FAMILIES:
        sentence += ". With so few families one of them can move the mean"
    if paraphrases == 1:
        sentence += ". With one wording each, the intervals do not cover how much wording matters"
    return f"{sentence}."


def _dose(training: pd.DataFrame) -> str:
    if training.empty:
        return "The run holds no training record."
    tokens, steps = _least(training["tokens"]), _least(training["steps"])
    return (
        f"Each checkpoint saw {tokens:,} tokens in {steps:,} steps. A light dose may leave effects "
        "too small to see; that nothing moved here does not show that nothing would."
    )


def _reading(layers: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """What a direction shows that reads no more than words do; the first one is the villain's."""
    if layers.empty:
        return []
    direction = layers["direction"].iloc[0]
    measured = layers[layers["direction"] == direction].dropna(subset=["report_auroc"])
    if measured.empty or len(beyond_words(measured)):
        return []
    projected = {claim.id for claim in CLAIMS if claim.measure == "prior_projection"}
    resting = claims[claims["id"].isin(projected)]["id"]
    named = f", and the claims that rest on it ({', '.join(resting)})" if len(resting) else ""
    return [
        f"In this model {direction} is not clearly read better than by a bag of words. Its projection"
        f"{named}, whatever the verdict, may be about wording and not about character."
    ]


def _steering(dose: pd.DataFrame, propensity: pd.DataFrame) -> list[str]:
    """Steering is often measured on a part of the checkpoints and scenarios."""
    # Base has one checkpoint whatever the number of seeds.
    steered = dose[(dose["operation"] == "add") & (dose["arm"] != "base")]
    families, seeds = _least(steered["families"]), _least(steered["seeds"])
    if not families or families >= _least(propensity["families"]):
        return []
    plural = "" if seeds == 1 else "s"
    return [
        f"Adding and ablating the direction was measured on {families} scenario families and "
        f"{seeds} checkpoint{plural} per arm: its propensities are not those of the comparison."
    ]


def _least(column: pd.Series) -> int:
    """The smallest count of a column, 0 where none was written."""
    return int(column.dropna().min()) if column.notna().any() else 0


def _options() -> str:
    return (
        "Propensity is computed from the likelihood of written options, and the likelihood prior "
        "from written self-descriptions. These are texts about acts and characters, not acts: a "
        "model may find a description likely and still not do what it says."
    )


def _topic(tables: Mapping[str, pd.DataFrame]) -> str:
    arm, arms = treatment_arm(tables), set(tables["propensity"]["arm"])
    sentence = (
        "Training on texts that mention temptations makes every text about them likelier. A "
        "difference from base alone does not exclude this"
    )
    present = [name for name in SPECIFIC if name in arms and name != arm]
    absent = [name for name in SPECIFIC if name not in arms]
    if present:
        sentence += f"; the comparison with {' and '.join(present)} is there to do so"
    if absent:
        sentence += f". This run has no {' and no '.join(absent)} arm"
    return f"{sentence}."
