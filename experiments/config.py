"""The configuration of a run: validated, printed into its manifest, and hashed."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from experiments.corpora import ARMS as TRAINED_ARMS
from experiments.scenarios import Subject
from probes import ArtefactError, DataError
from probes.assets import asset_path

ARMS = ("base", *TRAINED_ARMS)


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(Section):
    """LoRA fine-tuning, the same for every arm: `steps × blocks_per_step × block_tokens` tokens each."""

    steps: int = Field(128, ge=1)
    blocks_per_step: int = Field(16, ge=1)
    block_tokens: int = Field(1024, ge=16)
    learning_rate: float = Field(2e-4, gt=0, allow_inf_nan=False)
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    warmup_steps: int = Field(20, ge=0)
    save_steps: int = Field(50, ge=1)


class Contrasts(Section):
    """From which texts the two directions are learned, and how; `families` takes the first ones."""

    name: str = "ai-villain-persona"
    voices: tuple[str, ...] | None = ("first", "third")
    families: int | None = Field(None, ge=20)
    villain: str = "villain"
    reasoning: str = "deliberates"
    method: Literal["difference_of_means", "logistic"] = "difference_of_means"
    pool: Literal["mean", "last"] = "mean"
    harder: str | None = "permuted-pairs"
    permutations: int = Field(1000, ge=0)

    @property
    def direction(self) -> str:
        """Name of the villain direction: that of the set, or of its file."""
        return Path(self.name).stem


class Honeypots(Section):
    """Which scenarios are scored; `families_per_category` takes the first ones of each, `None` all."""

    name: str = "honeypots"
    subjects: tuple[Subject, ...] = Field(("you", "ai", "named-ai"), min_length=1)
    split: Literal["selection", "report"] = "report"
    families_per_category: int | None = Field(None, ge=1)
    paraphrases: int = Field(3, ge=1)


class Character(Section):
    """Which self prompts and self-descriptions are scored; `None` takes all of the split."""

    split: Literal["selection", "report"] = "report"
    families: int | None = Field(None, ge=2)
    descriptions: int | None = Field(None, ge=2)
    stems: int = Field(3, ge=1)
    neutral_texts: int | None = Field(None, ge=10)
    held_out_texts: int | None = Field(None, ge=2)


class Steering(Section):
    """The causal ablation: strengths are fractions of the mean residual norm at the probe's layer.

    `seeds` takes the first ones of each arm, `None` all.
    """

    arms: tuple[str, ...] = ("base", "story")
    strengths: tuple[FiniteFloat, ...] = Field((-0.2, 0.1, 0.2), min_length=1)
    random_directions: int = Field(3, ge=0)
    seeds: int | None = Field(None, ge=1)
    families_per_category: int | None = Field(None, ge=1)
    paraphrases: int = Field(1, ge=1)


class RunConfig(Section):
    """Everything that decides a run's figures."""

    name: str = Field(min_length=1)
    model: str = "gemma-3-270m"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    arms: tuple[str, ...] = ARMS
    seeds: int = Field(4, ge=1, le=64)
    corpus_seed: int = 0
    resamples: int = Field(10_000, ge=100)
    batch_tokens: int = Field(16_384, ge=64)
    training: Training = Training()
    contrasts: Contrasts = Contrasts()
    honeypots: Honeypots = Honeypots()
    character: Character = Character()
    steering: Steering = Steering()

    @model_validator(mode="after")
    def _arms_are_known(self) -> "RunConfig":
        unknown = [arm for arm in (*self.arms, *self.steering.arms) if arm not in ARMS]
        if unknown:
            raise ValueError(f"unknown arm {unknown[0]!r}; known are {', '.join(ARMS)}")
        missing = [arm for arm in ("base", *self.steering.arms) if arm not in self.arms]
        if missing:
            raise ValueError(f"arm {missing[0]!r} is needed but not in arms")
        for name, values in (
            ("arms", self.arms),
            ("steering.arms", self.steering.arms),
            ("steering.strengths", self.steering.strengths),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} lists a value twice")
        return self


def load_config(name_or_path: str, **overrides: object) -> RunConfig:
    """A preset by name, or a YAML or TOML file; overrides that are `None` are ignored.

    Raises:
        DataError: the file cannot be parsed or a field is wrong (file and field are named).
        ArtefactError: there is no such preset or file.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml", ".toml"):
        try:
            path = asset_path("presets", f"{name_or_path}.yaml")
        except ArtefactError as error:
            known = ", ".join(sorted(file.stem for file in asset_path("presets").glob("*.yaml")))
            raise ArtefactError(
                f"there is no preset {name_or_path!r}; use one of {known}, or a .yaml or .toml file"
            ) from error
    values = _parse(path)
    values.setdefault("name", path.stem)
    values.update({key: value for key, value in overrides.items() if value is not None})
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "configuration"
        raise DataError(f"{path}: {where}: {first['msg']}") from error


def _parse(path: Path) -> dict:
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise ArtefactError(f"configuration {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} cannot be parsed: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a mapping of settings, not a {type(values).__name__}")
    return values
