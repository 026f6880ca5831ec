"""The main job: directions on the base, checkpoints, measures, steering, tables, figures, report."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from experiments import ablation, corpora, directions, plots, report
from experiments.ablation import Condition
from experiments.config import RunConfig
from experiments.measurement import measure_checkpoint
from experiments.runs import Run, open_run
from experiments.tables import write_tables
from experiments.training import train_adapter
from probes import LanguageModel, load
from probes.files import read_json


def run(config: RunConfig, folder: Path) -> Path:
    """Do, or go on with, the run of a configuration in `folder`; returns the path of its report.

    Raises:
        StorypriorError: something is wrong with the configuration, the folder, the model or the texts.
    """
    with open_run(folder, config) as job:
        work = _Work(job)
        units = work.units()
        with tqdm(total=sum(unit.cost for unit in units), unit="tok", unit_scale=True) as bar:
            for unit in units:
                bar.set_description(unit.name)
                if job.is_done(unit.name):
                    bar.total -= unit.cost  # so that the time left is that of the work left
                    continue
                job.unit(unit.name, unit.compute)
                bar.update(unit.cost)
        work.release()
        write_tables(folder, config, **work.results())
        job.finish()
        return publish(folder)


def publish(folder: Path) -> Path:
    """Draw the figures and write the report of a run whose tables are there; returns its path."""
    plots.draw_all(folder)
    return report.write_report(folder)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work that is done once: its name, a rough cost in tokens, its computation."""

    name: str
    cost: int
    compute: Callable[[], Any]


class _Work:
    """The units of one run, and the model that the last of them used."""

    def __init__(self, job: Run) -> None:
        self.job = job
        self.config: RunConfig = job.config
        self.directions = job.folder / "directions"
        self._model: LanguageModel | None = None
        self._adapter: Path | None = None

    def units(self) -> list[Unit]:
        """All units in order; a later one reads what earlier ones left in the run directory."""
        training = self.config.training
        tokens = training.steps * training.blocks_per_step * training.block_tokens
        units = [Unit("directions", 25_000, self.learn)]
        for arm, seed in self.checkpoints():
            if arm != "base":
                units.append(
                    Unit(
                        f"train/{arm}/seed-{seed}",
                        8 * tokens,
                        lambda a=arm, s=seed: self.train(a, s),
                    )
                )
            units.append(
                Unit(f"measure/{arm}/seed-{seed}", 14_000, lambda a=arm, s=seed: self.measure(a, s))
            )
            units += [
                Unit(
                    f"steer/{arm}/seed-{seed}/{condition.name}",
                    5_000,
                    lambda a=arm, s=seed, c=condition: self.steer(a, s, c),
                )
                for condition in self.conditions(arm, seed)
            ]
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
        model = self.checkpoint("base", 0)
        config = model.model.config.get_text_config(decoder=True)
        self.job.record_model(
            {
                "name": self.config.model,
                "identity": model.identity,
                "architecture": type(model.model).__name__,
                "n_layers": model.n_layers,
                "d_model": model.d_model,
                "vocabulary": config.vocab_size,
                "parameters": model.model.num_parameters(),
                "dtype": str(model.dtype).removeprefix("torch."),
                "device": str(model.device),
            }
        )
        return directions.learn_directions(model, self.config, self.directions)

    def train(self, arm: str, seed: int) -> dict[str, Any]:
        """One adapter; the corpus differs between seeds, so that seeds cover the choice of documents."""
        out = self._folder_of(arm, seed)
        if not out.exists():
            corpus = corpora.generate(
                arm, corpora.capacity(arm), seed=self.config.corpus_seed + seed
            )
            model = self.checkpoint("base", 0)
            self.job.record_model({"name": self.config.model, "identity": model.identity})
            self.release()  # training leaves its adapter on the model
            train_adapter(
                model, (document.text for document in corpus), out, self.config.training, seed=seed
            )
        return read_json(out / "training.json")

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """All measures of one checkpoint."""
        both = directions.load_directions(self.config, self.directions)
        reference = directions.load_reference(self.directions)
        return measure_checkpoint(self.checkpoint(arm, seed), self.config, both, reference)

    def steer(self, arm: str, seed: int, condition: Condition) -> list[dict[str, Any]]:
        """Honeypots of one checkpoint under one condition."""
        villain, _ = directions.load_directions(self.config, self.directions)
        return ablation.score_condition(self.checkpoint(arm, seed), self.config, condition, villain)

    def checkpoint(self, arm: str, seed: int) -> LanguageModel:
        """The model of an arm and seed, loaded unless it is the one loaded last."""
        adapter = None if arm == "base" else self._folder_of(arm, seed)
        if self._model is None or adapter != self._adapter:
            self.release()
            self._model = load(self.config.model, dtype=self.config.dtype, adapter=adapter)
            self._adapter = adapter
        return self._model

    def release(self) -> None:
        """Let go of the loaded model."""
        self._model = self._adapter = None
        gc.collect()

    def results(self) -> dict[str, Any]:
        """All units' results, arranged as `write_tables` takes them."""
        measured, trained, steered = {}, [], {}
        for arm, seed in self.checkpoints():
            measured[arm, seed] = self.job.result(f"measure/{arm}/seed-{seed}")
            if arm != "base":
                trained.append(
                    {"arm": arm, "seed": seed, **self.job.result(f"train/{arm}/seed-{seed}")}
                )
            for condition in self.conditions(arm, seed):
                replicates = steered.setdefault((arm, condition.operation, condition.strength), [])
                replicates.append(self.job.result(f"steer/{arm}/seed-{seed}/{condition.name}"))
        return {
            "evaluations": measured,
            "probe_rows": self.job.result("directions"),
            "training_rows": trained,
            "steering": steered,
        }

    def _folder_of(self, arm: str, seed: int) -> Path:
        return self.job.folder / "checkpoints" / arm / f"seed-{seed}"
