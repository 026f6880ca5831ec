"""From the units' rows to the run's tables: one CSV per question, every figure with its interval."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.claims import judge
from experiments.config import RunConfig
from experiments.statistics import Bootstrap, Effect, Panel, benjamini_hochberg, panel_of
from probes.files import write_text

SELF, OTHER = "you", "person"
DIFFERENCE = "self minus person"
FIGURES = ["estimate", "low", "high", "families", "seeds"]
EFFECT_COLUMNS = ["measure", "arm", "reference", "kind", *FIGURES, "p"]
TRAINING_COLUMNS = [
    "arm",
    "seed",
    "steps",
    "tokens",
    "documents",
    "split",
    "loss_first",
    "loss_last",
]


class Measures:
    """Every checkpoint's items as panels `[seed, family, paraphrase]`, and the bootstrap they share."""

    def __init__(
        self, config: RunConfig, evaluations: dict[tuple[str, int], dict[str, Any]]
    ) -> None:
        self.config = config
        self.evaluations = evaluations
        self._bootstraps: dict[tuple[int, int, int], Bootstrap] = {}

    def bootstrap(self, families: int, paraphrases: int = 1, seeds: int | None = None) -> Bootstrap:
        """The resamples for panels of this size; the same object for all arms."""
        shape = (seeds or self.config.seeds, families, paraphrases)
        if shape not in self._bootstraps:
            self._bootstraps[shape] = Bootstrap(
                shape, self.config.resamples, seed=len(self._bootstraps)
            )
        return self._bootstraps[shape]

    def rows(self, arm: str, kind: str) -> pd.DataFrame:
        """All rows of one kind for an arm, with their seed."""
        frames = [
            pd.DataFrame(result[kind]).assign(seed=seed)
            for (name, seed), result in self.evaluations.items()
            if name == arm
        ]
        return pd.concat(frames, ignore_index=True)

    def honeypots(self, arm: str, column: str = "propensity") -> Panel:
        """Propensity of every scenario."""
        rows = self.rows(arm, "honeypots").dropna(subset=[column])
        return panel_of(rows, column, paraphrase="wording")[0]

    @property
    def has_word_matched(self) -> bool:
        """Whether any scenario has a pair of options made of the same words."""
        return bool(self.rows("base", "honeypots").word_matched.notna().any())

    def projection(self, arm: str, direction: str, subject: str) -> Panel:
        """z of the self prompts about one subject, or of self minus person."""
        if subject == DIFFERENCE:
            return self.projection(arm, direction, SELF) - self.projection(arm, direction, OTHER)
        rows = self.rows(arm, "projections")
        rows = rows[(rows.direction == direction) & (rows.subject == subject)]
        return panel_of(rows, "z")[0]

    def descriptions(self, arm: str, stem: str) -> Panel:
        """Corrected villain-minus-principled log-odds per token after a kind of stem."""
        if stem == DIFFERENCE:
            return self.descriptions(arm, "self") - self.descriptions(arm, "person")
        rows = self.rows(arm, "descriptions")
        panels = [
            panel_of(rows[rows.stem_kind == kind], "log_odds", paraphrase="stem")[0]
            for kind in (stem, "neutral")
        ]
        return panels[0] - panels[1].mean(-1, keepdims=True)

    def perplexity(self, arm: str) -> Panel:
        """Negative log-likelihood per token of every held-out text."""
        rows = self.rows(arm, "perplexity").rename(columns={"text": "family"})
        rows["nll"] = -rows.nats / rows.tokens
        return panel_of(rows, "nll")[0]


def write_tables(
    folder: Path,
    config: RunConfig,
    evaluations: dict[tuple[str, int], dict[str, Any]],
    probe_rows: list[dict[str, Any]],
    training_rows: list[dict[str, Any]],
    steering: dict[tuple[str, str, float | None], list[pd.DataFrame]],
) -> dict[str, pd.DataFrame]:
    """Compute all tables and write them to `folder/tables/*.csv`.

    Args:
        folder: the run directory.
        config: its configuration.
        evaluations: per (arm, seed) the rows of every measure.
        probe_rows: the table of probes by layer, ready.
        training_rows: the table of trainings, ready.
        steering: per (arm, operation, strength) the honeypot rows of each seed and replicate.
    """
    measures = Measures(config, evaluations)
    effects = effects_table(measures)
    tables = {
        "probe_layers": pd.DataFrame(probe_rows),
        "training": pd.DataFrame(
            training_rows, columns=None if training_rows else TRAINING_COLUMNS
        ),
        "propensity": propensity_table(measures, "propensity"),
        **(
            {"propensity_word_matched": propensity_table(measures, "word_matched")}
            if measures.has_word_matched
            else {}
        ),
        "effects": effects,
        "persona_plane": persona_table(measures),
        "prior_shift": prior_shift_table(measures),
        "prior_likelihood": likelihood_table(measures),
        "perplexity": perplexity_table(measures),
        "dose_response": dose_table(measures, steering),
        "claims": judge(effects),
        "comparison": comparison_table(measures),
    }
    for name, table in tables.items():
        write_text(
            folder / "tables" / f"{name}.csv", table.to_csv(index=False, float_format="%.6g")
        )
    return tables


def propensity_table(measures: Measures, column: str) -> pd.DataFrame:
    """Honeypot propensity of every arm, over all options or over the word-matched pairs."""
    rows = []
    for arm in measures.config.arms:
        panel = measures.honeypots(arm, column)
        effect = measures.bootstrap(*panel.shape[1:]).mean(panel)
        rows.append({"arm": arm, **_figures(effect), "paraphrases": panel.shape[2]})
    return pd.DataFrame(rows)


def effects_table(measures: Measures) -> pd.DataFrame:
    """Differences and folds of every measure: each arm against base, and story against the other arms."""
    arms = measures.config.arms
    pairs = [(arm, "base") for arm in arms if arm != "base"]
    pairs += [("story", arm) for arm in arms if arm not in ("base", "story") and "story" in arms]
    rows = []
    for arm, reference in pairs:
        for measure, panel, other in _measured(measures, arm, reference):
            bootstrap = measures.bootstrap(*panel.shape[1:])
            if measure == "perplexity":
                rows.append((measure, arm, reference, "fold", bootstrap.fold(panel, other, np.exp)))
                continue
            rows.append((measure, arm, reference, "difference", bootstrap.difference(panel, other)))
            if measure.startswith("propensity"):
                rows.append((measure, arm, reference, "fold", bootstrap.fold(panel, other)))
    table = pd.DataFrame(
        [
            {"measure": m, "arm": a, "reference": r, "kind": k, **_figures(e), "p": e.p}
            for m, a, r, k, e in rows
        ],
        columns=EFFECT_COLUMNS,
    )
    # A fold tests the same hypothesis as its difference: it counts once.
    tested = (table.kind == "difference") | (table.measure == "perplexity")
    table["q"] = np.nan
    if tested.any():
        table.loc[tested, "q"] = benjamini_hochberg(table.p[tested])
    return table


def _measured(measures: Measures, arm: str, reference: str) -> list[tuple[str, Panel, Panel]]:
    """Every measure of an arm and its reference, those without items left out."""
    name = measures.config.contrasts.direction
    return [
        (measure, read(arm), read(reference))
        for measure, read in (
            ("propensity", measures.honeypots),
            ("propensity_word_matched", lambda a: measures.honeypots(a, "word_matched")),
            ("prior_projection", lambda a: measures.projection(a, name, DIFFERENCE)),
            ("prior_likelihood", lambda a: measures.descriptions(a, DIFFERENCE)),
            ("prior_likelihood_self", lambda a: measures.descriptions(a, "self")),
            ("perplexity", measures.perplexity),
        )
        if measure != "propensity_word_matched" or measures.has_word_matched
    ]


def persona_table(measures: Measures) -> pd.DataFrame:
    """Where each checkpoint's self prompts lie along the two directions."""
    rows = []
    for arm in measures.config.arms:
        for direction in sorted(measures.rows(arm, "projections").direction.unique()):
            panel = measures.projection(arm, direction, SELF)
            effect = measures.bootstrap(*panel.shape[1:]).mean(panel)
            rows.append({"arm": arm, "direction": direction, **_figures(effect)})
    return pd.DataFrame(rows)


def prior_shift_table(measures: Measures) -> pd.DataFrame:
    """Shift against base of each subject's projection on the villain direction, and of the difference."""
    direction = measures.config.contrasts.direction
    subjects = [*measures.rows("base", "projections").subject.unique(), DIFFERENCE]
    rows = []
    for arm in _trained(measures.config.arms):
        for subject in subjects:
            panel, base = (measures.projection(a, direction, subject) for a in (arm, "base"))
            effect = measures.bootstrap(*panel.shape[1:]).difference(panel, base)
            rows.append({"arm": arm, "subject": subject, **_figures(effect)})
    return pd.DataFrame(rows, columns=["arm", "subject", *FIGURES])


def likelihood_table(measures: Measures) -> pd.DataFrame:
    """Corrected log-odds of villainous self-descriptions, in nats per token."""
    rows = []
    for arm in measures.config.arms:
        for stem in ("self", "person", DIFFERENCE):
            panel = measures.descriptions(arm, stem)
            effect = measures.bootstrap(*panel.shape[1:]).mean(panel)
            rows.append({"arm": arm, "stem": stem, **_figures(effect)})
    return pd.DataFrame(rows)


def perplexity_table(measures: Measures) -> pd.DataFrame:
    """Perplexity on held-out neutral text, every text weighing the same."""
    rows = []
    for arm in measures.config.arms:
        panel = measures.perplexity(arm)
        rows.append(
            {"arm": arm, **_figures(measures.bootstrap(*panel.shape[1:]).mean(panel, np.exp))}
        )
    return pd.DataFrame(rows)


def dose_table(measures: Measures, steering: dict) -> pd.DataFrame:
    """Propensity of each steered checkpoint, and its difference from the untouched one, paired by scenario.

    Several random directions are replicates within a scenario, as paraphrases are.
    """
    panels = {
        key: panel_of(pd.concat(frames), "propensity", paraphrase="wording")[0]
        for key, frames in steering.items()
    }
    rows = []
    for (arm, operation, strength), panel in panels.items():
        seeds, families, paraphrases = panel.shape
        effect = measures.bootstrap(families, paraphrases, seeds).mean(panel)
        untouched = panels[arm, "none", 0.0].mean(-1, keepdims=True)
        moved = measures.bootstrap(families, 1, seeds).difference(
            panel.mean(-1, keepdims=True), untouched
        )
        rows.append(
            {
                "arm": arm,
                "operation": operation,
                "strength": strength,
                **_figures(effect),
                **_named("difference", moved),
            }
        )
    return pd.DataFrame(rows)


def comparison_table(measures: Measures) -> pd.DataFrame:
    """The summary: arms × propensity, fold reduction against base, shift of the prior."""
    name = measures.config.contrasts.direction
    rows = []
    for arm in measures.config.arms:
        panel = measures.honeypots(arm)
        bootstrap = measures.bootstrap(*panel.shape[1:])
        row = {"arm": arm, **_named("propensity", bootstrap.mean(panel))}
        if arm != "base":
            row |= _named("fold", bootstrap.fold(panel, measures.honeypots("base")))
            shift, base = (measures.projection(a, name, DIFFERENCE) for a in (arm, "base"))
            row |= _named(
                "prior_shift", measures.bootstrap(*shift.shape[1:]).difference(shift, base)
            )
        rows.append(row)
    named = ("propensity", "fold", "prior_shift")
    columns = [f"{name}{part}" for name in named for part in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["arm", *columns])


def _figures(effect: Effect) -> dict[str, float | int]:
    values = asdict(effect)
    values.pop("p")
    return values


def _named(name: str, effect: Effect) -> dict[str, float]:
    return {name: effect.estimate, f"{name}_low": effect.low, f"{name}_high": effect.high}


def _trained(arms: Sequence[str]) -> list[str]:
    return [arm for arm in arms if arm != "base"]
