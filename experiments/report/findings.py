"""What a run found, in sentences made from its tables and nothing else.

One rule decides every verb: "rose" and "fell" are said only where the interval of a difference
excludes zero; otherwise there was "no clear change". A finding against the hypothesis goes through
the same rule as one for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from experiments.plots.prior import CONTRAST
from experiments.plots.representation import METHOD_NAMES
from experiments.report.formatting import interval, number, probability

TREATMENT = "story"
#: Arms trained on the same topic: only an effect beyond theirs is about principled characters.
SPECIFIC = ("villain-story", "plain-story")
ALPHA = 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that was found: a plain sentence, and the numbers it rests on."""

    headline: str
    detail: str


def change(low: float, high: float) -> str:
    """What a difference with this interval did: "rose", "fell", "no clear change" or "unknown"."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    return "rose" if low > 0 else "fell" if high < 0 else "no clear change"


def treatment_arm(tables: Mapping[str, pd.DataFrame]) -> str:
    """The arm that the sentences are about: story, or the first trained arm of a run without it."""
    trained = [arm for arm in tables["propensity"]["arm"] if arm != "base"]
    return TREATMENT if TREATMENT in trained or not trained else trained[0]


def findings(tables: Mapping[str, pd.DataFrame]) -> list[Finding]:
    """Everything the tables of a run say about its question, the main results first."""
    arm = treatment_arm(tables)
    found = [
        _propensity(tables, arm),
        *(_specific(tables, arm, reference) for reference in SPECIFIC if reference != arm),
        _word_matched(tables, arm),
        _prior(tables, arm),
        *(_specific_prior(tables, arm, reference) for reference in SPECIFIC if reference != arm),
        _likelihood(tables, arm),
        *(_steered(tables, name) for name in ("base", arm)),
        _against_refusal(tables, arm),
        _other_arms(tables, arm),
        *_reading(tables),
        _cost(tables, arm),
    ]
    return [finding for finding in found if finding]


def claims_sentence(claims: pd.DataFrame) -> str:
    """How many of the claims fixed beforehand came out which way."""
    if claims.empty:
        return "No claims were fixed before the run."
    counts = claims["verdict"].value_counts()
    parts = [
        f"{counts.get(verdict, 0)} {verdict}"
        for verdict in ("supported", "contradicted", "inconclusive")
    ]
    noun = "claim" if len(claims) == 1 else "claims"
    return f"Of {len(claims)} {noun} fixed before the run: {', '.join(parts)}."


def _effect(
    tables: Mapping[str, pd.DataFrame],
    measure: str,
    arm: str,
    reference: str = "base",
    kind: str = "difference",
) -> pd.Series | None:
    """The row of `effects` for one comparison, or None where it was not made."""
    table = tables["effects"]
    wanted = {"measure": measure, "arm": arm, "reference": reference, "kind": kind}
    for column, value in wanted.items():
        table = table[table[column] == value]
    table = table.dropna(subset=["estimate"])
    return None if table.empty else table.iloc[0]


def _level(table: pd.DataFrame, arm: str) -> str | None:
    rows = table[table["arm"] == arm]
    if rows.empty:
        return None
    return interval(*rows.iloc[0][["estimate", "low", "high"]])


def _bounds(row: pd.Series) -> str:
    return interval(row["estimate"], row["low"], row["high"])


def _moved(row: pd.Series, subject: str, arm: str) -> str:
    """Headline of a difference against base."""
    verb = change(row["low"], row["high"])
    if verb == "unknown":
        return f"{subject} under {arm}: no interval, so no conclusion."
    if verb == "no clear change":
        return f"{subject} showed no clear change under {arm}."
    return f"{subject} {verb} under {arm}."


def _certainty(row: pd.Series) -> str:
    """What interval and corrected test say, and whether they disagree."""
    verb = change(row["low"], row["high"])
    if verb == "unknown":
        return "No interval could be computed."
    sentence = f"The interval {'covers' if verb == 'no clear change' else 'excludes'} zero"
    q = row.get("q", math.nan)
    if not math.isfinite(q):
        return f"{sentence}."
    shown = probability(q) if q < 0.001 else f"= {probability(q)}"
    sentence += f" (q {shown}).".replace(" ", "\N{NO-BREAK SPACE}")
    if verb != "no clear change" and q > ALPHA:
        sentence += " After correction for the number of comparisons it is not significant."
    return sentence


def _propensity(tables, arm: str) -> Finding | None:
    row = _effect(tables, "propensity", arm)
    if row is None:
        return None
    detail = (
        f"{_level(tables['propensity'], arm)} against {_level(tables['propensity'], 'base')} for "
        f"base: a difference of {_bounds(row)}"
    )
    fold = _effect(tables, "propensity", arm, kind="fold")
    if fold is not None:
        detail += f", a fold reduction of {_bounds(fold)} (above 1 is lower than base)"
    return Finding(_moved(row, "Honeypot propensity", arm), f"{detail}. {_certainty(row)}")


def _versus(row: pd.Series, arm: str, reference: str, what: str) -> str:
    """Headline of a difference between two trained arms."""
    verb = change(row["low"], row["high"])
    if verb == "unknown":
        return f"Against {reference}, {what} under {arm}: no interval, so no conclusion."
    if verb == "no clear change":
        return f"Against {reference}, {arm} showed no clear difference in {what}."
    return f"Against {reference}, {arm} had {'higher' if verb == 'rose' else 'lower'} {what}."


def _specific(tables, arm: str, reference: str) -> Finding | None:
    row = _effect(tables, "propensity", arm, reference)
    if row is None:
        return None
    detail = f"Specific effect, {arm} minus {reference}: {_bounds(row)}. {_certainty(row)}"
    against_base = _effect(tables, "propensity", arm)
    if against_base is not None:
        moved = change(against_base["low"], against_base["high"])
        if moved in ("rose", "fell") and change(row["low"], row["high"]) != moved:
            detail += (
                " So the change against base may be due to topic and form, which both arms share."
            )
    return Finding(_versus(row, arm, reference, "honeypot propensity"), detail)


def _word_matched(tables, arm: str) -> Finding | None:
    row = _effect(tables, "propensity_word_matched", arm)
    if row is None:
        return None
    detail = (
        f"Difference from base on option pairs made of the same words: {_bounds(row)}. "
        f"{_certainty(row)} Both options of such a pair name the same things, so the mere mention "
        "of temptations favours neither; a gain in fluency still can."
    )
    return Finding(_moved(row, "Word-matched propensity", arm), detail)


def _prior(tables, arm: str) -> Finding | None:
    table = tables["prior_shift"]
    rows = table[(table["arm"] == arm) & (table["subject"] == CONTRAST)].dropna(subset="estimate")
    if rows.empty:
        return None
    row = rows.iloc[0].copy()
    tested = _effect(tables, "prior_projection", arm)
    if tested is not None:
        row["q"] = tested["q"]
    detail = (
        f"Shift of the self minus shift of a person, against base: {_bounds(row)} standard "
        f"deviations. {_certainty(row)}"
    )
    return Finding(
        _moved(row, "The villain projection of the self, relative to a person,", arm), detail
    )


def _specific_prior(tables, arm: str, reference: str) -> Finding | None:
    row = _effect(tables, "prior_projection", arm, reference)
    if row is None:
        return None
    detail = f"Specific effect, {arm} minus {reference}: {_bounds(row)}. {_certainty(row)}"
    return Finding(
        _versus(row, arm, reference, "villain projection of the self relative to a person"), detail
    )


def _likelihood(tables, arm: str) -> Finding | None:
    row = _effect(tables, "prior_likelihood", arm)
    if row is None:
        return None
    detail = f"Against base, in nats per token: {_bounds(row)}. {_certainty(row)}"
    specific = [(name, _effect(tables, "prior_likelihood", arm, name)) for name in SPECIFIC]
    detail += "".join(
        f" Against {name}: {_bounds(other)}." for name, other in specific if other is not None
    )
    subject = "The likelihood of villain over principled self-descriptions, relative to a person's,"
    return Finding(_moved(row, subject, arm), detail)


def _steered(tables, arm: str) -> Finding | None:
    """What moving and removing the villain direction did to one arm, against the same arm untouched."""
    table = tables["dose_response"]
    rows = table[table["arm"] == arm].dropna(subset="difference")
    added = rows[rows["operation"] == "add"].sort_values("strength")
    if added.empty:
        return None
    strongest = added.iloc[-1]
    low, high = strongest["difference_low"], strongest["difference_high"]
    verb = {"rose": "raised", "fell": "lowered"}.get(change(low, high))
    headline = (
        f"Adding the villain direction {verb} the propensity of {arm}."
        if verb
        else f"Adding the villain direction did not clearly change the propensity of {arm}."
    )
    parts = [f"Strength {strongest['strength']:+g}: {_difference(strongest)}."]
    for operation, said in (("add-random", "A random direction"), ("ablate", "Projecting it out")):
        other = rows[rows["operation"] == operation]
        if not other.empty:
            parts.append(f"{said}: {_difference(other.iloc[0])}.")
    return Finding(headline, " ".join(parts) + " Against the same scenarios untouched.")


def _difference(row: pd.Series) -> str:
    columns = {f"difference{part}": part.strip("_") or "estimate" for part in ("", "_low", "_high")}
    return _bounds(row.drop(["estimate", "low", "high"]).rename(columns))


def _against_refusal(tables, arm: str) -> Finding | None:
    row = _effect(tables, "propensity", arm, "refusal")
    if row is None:
        return None
    detail = f"{arm} minus refusal: {_bounds(row)}. {_certainty(row)}"
    return Finding(_versus(row, arm, "refusal", "honeypot propensity"), detail)


def _other_arms(tables, arm: str) -> Finding | None:
    """One line on every other arm, so that the treatment is never shown alone."""
    groups: dict[str, list[str]] = {}
    for other in tables["propensity"]["arm"]:
        row = _effect(tables, "propensity", other)
        if other not in ("base", arm) and row is not None:
            said = change(row["low"], row["high"])
            groups.setdefault(said, []).append(f"{other} {_bounds(row)}")
    if not groups:
        return None
    order = {"fell": "Fell", "rose": "Rose", "no clear change": "No clear change"}
    order["unknown"] = "No interval"
    detail = " ".join(
        f"{order[said]}: {', '.join(groups[said])}." for said in order if said in groups
    )
    return Finding("Propensity under the other arms, against base.", detail)


def _reading(tables) -> list[Finding]:
    """For each direction: how well it reads held-out texts, and whether word counts do as well."""
    found = []
    for direction, rows in tables["probe_layers"].groupby("direction", sort=False):
        chosen = rows[rows["selected"]].dropna(subset=["report_auroc"])
        if chosen.empty:
            continue
        floor, better = chosen.iloc[0], beyond_words(chosen)
        if len(better) == len(chosen):
            verdict = "better than a bag of words"
        elif better.empty:
            verdict = "not clearly better than a bag of words"
        else:
            names = " and ".join(METHOD_NAMES.get(name, name) for name in better["method"])
            verdict = f"better than a bag of words by {names} only"
        readings = ", ".join(
            f"{METHOD_NAMES.get(row['method'], row['method'])} (layer {row['layer']:.0f}) "
            f"{interval(row['report_auroc'], row['report_low'], row['report_high'])}"
            for _, row in chosen.iterrows()
        )
        detail = (
            f"AUROC on families not used for choosing the layer: {readings}; bag of words "
            f"{interval(floor['floor'], floor['floor_low'], floor['floor_high'])}."
        )
        harder = chosen.dropna(subset=["permuted_auroc"])
        if len(harder):
            numbers = ", ".join(
                f"{METHOD_NAMES.get(row['method'], row['method'])} {number(row['permuted_auroc'])}"
                for _, row in harder.iterrows()
            )
            detail += f" On pairs made of the same words (no interval): {numbers}."
        found.append(Finding(f"{direction} is read {verdict}.", detail))
    return found


def beyond_words(layers: pd.DataFrame) -> pd.DataFrame:
    """The rows of `probe_layers` that are selected and clearly above the bag of words."""
    return layers[layers["selected"] & (layers["report_low"] > layers["floor_high"])]


def _cost(tables, arm: str) -> Finding | None:
    """Perplexity against base; its effect is a fold, base over arm, here turned into per cent."""
    fold, levels = _effect(tables, "perplexity", arm, kind="fold"), tables["perplexity"]
    if fold is None or _level(levels, arm) is None:
        return None
    row = fold.copy()
    row["estimate"], row["low"], row["high"] = (
        100 * (1 / fold[name] - 1) for name in ("estimate", "high", "low")
    )
    detail = (
        f"{_level(levels, arm)} against {_level(levels, 'base')} for base, a change of "
        f"{_bounds(row)} per cent. {_certainty(row)}"
    )
    return Finding(_moved(row, "Perplexity on neutral text", arm), detail)
