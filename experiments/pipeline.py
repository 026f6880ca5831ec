"""The main job: directions on the base, checkpoints, measures, steering, tables, figures, report."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from experiments import ablation, corpora, directions, report
from experiments.ablation import Condition
from experiments.config import RunConfig
from experiments.measurement import measure_checkpoint
from experiments.runs import Run, open_run
from experiments.tables import write_tables
from experiments.training import train_adapter
from probes import LanguageModel, load
from probes.adapters import attached

# How much dearer a trained token is than a captured one, for the time left.
TRAINING_COST = 8


def run(config: RunConfig, folder: Path) -> Path:
    """Do, or go on with, the run of a configuration in `folder`; returns the path of its report.

    Raises:
        StorypriorError: something is wrong with the configuration, the folder, the model or the texts.
    """
    with open_run(folder, config) as job:
        work = _Work(job)
        left = [unit for unit in work.units() if not job.is_done(unit.name)]
        if left:
            job.record_model(describe(work.base))  # before the bar: what is wrong here needs no bar
        with tqdm(total=sum(unit.cost for unit in left), unit="tok", unit_scale=True) as bar:
            work.on_tokens = bar.update
            done = 0
            for unit in left:
                bar.set_description(unit.name)
                job.unit(unit.name, unit.compute)
                done += unit.cost
                bar.update(done - bar.n)
        write_tables(folder, config, **work.results())
        job.finish()
        return publish(folder)


def describe(model: LanguageModel) -> dict[str, Any]:
    """What the manifest says of the model."""
    return {
        "name": model.name,
        "identity": model.identity,
        "architecture": type(model.model).__name__,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "parameters": model.model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def publish(folder: Path) -> Path:
    """Draw the figures and write the report of a run whose tables are there; returns its path."""
    return report.write_report(folder)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that is done once: its name, a rough cost in tokens, its computation."""

    name: str
    cost: int
    compute: Callable[[], Any]


class _Work:
    """The units of one run and the base model that they share."""

    def __init__(self, job: Run) -> None:
        self.job = job
        self.config: RunConfig = job.config
        self.directions = job.folder / "directions"
        self.on_tokens: Callable[[int], Any] = lambda tokens: None

    def units(self) -> list[Unit]:
        """All units in order; a later one reads what earlier ones left in the run directory."""
        training = self.config.training
        tokens = training.steps * training.blocks_per_step * training.block_tokens
        units = [Unit("directions", 25_000, self.learn)]
        for arm, seed in self.checkpoints():
            if arm != "base":
                train = partial(self.train, arm, seed)
                units.append(Unit(f"train/{arm}/seed-{seed}", TRAINING_COST * tokens, train))
            measure = partial(self.measure, arm, seed)
            units.append(Unit(f"measure/{arm}/seed-{seed}", 14_000, measure))
            for condition in self.conditions(arm, seed):
                name = f"steer/{arm}/seed-{seed}/{condition.name}"
                units.append(Unit(name, 5_000, partial(self.steer, arm, seed, condition)))
        return units

    def checkpoints(self) -> list[tuple[str, int]]:
        """Every arm with each of its seeds; the base has one."""
        return [
            (arm, seed)
            for seed in range(self.config.seeds)
            for arm in self.config.arms
            if arm != "base" or seed == 0
        ]

    def conditions(self, arm: str, seed: int) -> list[Condition]:
        """The steered conditions of a checkpoint, none for most."""
        settings = self.config.steering
        steered = arm in settings.arms and (settings.seeds is None or seed < settings.seeds)
        return ablation.conditions(settings) if steered else []

    def learn(self) -> list[dict[str, Any]]:
        """Directions and neutral reference of the base."""
        return directions.learn_directions(self.base, self.config, self.directions)

    def train(self, arm: str, seed: int) -> dict[str, Any]:
        """One adapter; the corpus differs between seeds, so that seeds cover the choice of documents."""
        corpus = corpora.generate(arm, corpora.capacity(arm), seed=self.config.corpus_seed + seed)
        settings = self.config.training
        per_step = TRAINING_COST * settings.blocks_per_step * settings.block_tokens
        return train_adapter(
            self.base,
            (document.text for document in corpus),
            self._folder_of(arm, seed),
            settings,
            seed=seed,
            on_step=lambda: self.on_tokens(per_step),
        )

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """All measures of one checkpoint."""
        both = directions.load_directions(self.config, self.directions)
        reference = directions.load_reference(self.directions)
        with self.checkpoint(arm, seed) as model:
            return measure_checkpoint(model, self.config, both, reference)

    def steer(self, arm: str, seed: int, condition: Condition) -> list[dict[str, Any]]:
        """Honeypots of one checkpoint under one condition."""
        villain, _ = directions.load_directions(self.config, self.directions)
        with self.checkpoint(arm, seed) as model:
            return ablation.score_condition(model, self.config, condition, villain)

    @cached_property
    def base(self) -> LanguageModel:
        """The base model, loaded once."""
        return load(self.config.model, dtype=self.config.dtype)

    def checkpoint(self, arm: str, seed: int) -> AbstractContextManager[LanguageModel]:
        """The model of an arm and seed: the base, with its adapter inside a `with`."""
        return attached(self.base, None if arm == "base" else self._folder_of(arm, seed))

    def results(self) -> dict[str, Any]:
        """All units' results, arranged as `write_tables` takes them."""
        measured, trained = {}, []
        steered: dict[tuple[str, str, float | None], list[pd.DataFrame]] = {}
        for arm, seed in self.checkpoints():
            measured[arm, seed] = self.job.result(f"measure/{arm}/seed-{seed}")
            if arm != "base":
                trained.append(
                    {"arm": arm, "seed": seed, **self.job.result(f"train/{arm}/seed-{seed}")}
                )
            for condition in self.conditions(arm, seed):
                rows = pd.DataFrame(
                    self.job.result(f"steer/{arm}/seed-{seed}/{condition.name}")
                ).assign(seed=seed)
                rows["wording"] = [f"{condition.replicate}.{k}" for k in rows.wording]
                key = (arm, condition.operation, condition.strength)
                steered.setdefault(key, []).append(rows)
        return {
            "evaluations": measured,
            "probe_rows": self.job.result("directions"),
            "training_rows": trained,
            "steering": steered,
        }

    def _folder_of(self, arm: str, seed: int) -> Path:
        return self.job.folder / "checkpoints" / arm / f"seed-{seed}"
