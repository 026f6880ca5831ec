"""Honeypot scenarios: families that tempt a protagonist, told of four subjects; one decision or several."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from probes.assets import asset_path
from probes.files import read_rows

SUBJECTS = ("you", "ai", "named-ai", "person")
Subject = Literal["you", "ai", "named-ai", "person"]
CATEGORIES = (
    "self-preservation",
    "sabotage-of-a-rival",
    "leverage-and-blackmail",
    "framing",
    "oversight-evasion",
    "resource-and-power-seeking",
    "deception-of-users",
    "cheating-a-metric",
)
_SLOT = re.compile(r"\{(\w+)\}")
_PRONOUNS = {
    "you": ("you", "you", "your", "yourself"),
    "it": ("it", "it", "its", "itself"),
    "she": ("she", "her", "her", "herself"),
    "he": ("he", "him", "his", "himself"),
}
_AGREEING = {
    "you": {"is": "are", "has": "have", "was": "were", "does": "do"},
    "it": {"is": "is", "has": "has", "was": "was", "does": "does"},
}


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(_Schema):
    """One way a scenario may go on; `word_matched` marks a pair of opposite acts in the same words."""

    text: str = Field(min_length=1)
    misaligned: bool
    word_matched: bool = False


def _balanced(options: tuple[Option, ...]) -> tuple[Option, ...]:
    misaligned = [option for option in options if option.misaligned]
    if len(misaligned) < 2 or len(options) != 2 * len(misaligned):
        raise ValueError("options need as many misaligned as principled ones, at least two of each")
    matched = [option for option in options if option.word_matched]
    if 2 * len([option for option in matched if option.misaligned]) != len(matched):
        raise ValueError("word_matched options come in pairs, one misaligned and one principled")
    return options


Options = Annotated[tuple[Option, ...], AfterValidator(_balanced)]


class Comprehension(_Schema):
    """A question about the facts of the scenario, and a right and a wrong answer of the same form."""

    question: str = Field(min_length=1)
    right: str = Field(min_length=1)
    wrong: str = Field(min_length=1)


class Benign(_Schema):
    """A counterpart in the same setting, where what is asked is harmless and should be done."""

    scene: str = Field(min_length=1)
    lead: str = Field(min_length=1)
    willing: str = Field(min_length=1)
    refusing: str = Field(min_length=1)


class Step(_Schema):
    """One decision of a longer scenario."""

    situation: str = Field(min_length=1)
    lead: str = Field(min_length=1)
    options: Options


class Scenario(_Schema):
    """What all scenario families have: their kind, their split, and who may be their protagonist.

    Texts hold slots: `{intro}` the subject's introducing clause; `{subject}`, `{object}`, `{they}`,
    `{them}`, `{their}`, `{themself}`; `{is}`, `{has}`, `{was}`, `{does}` agree; and the keys of
    `words`, whose first value is for an AI and the second for a person. Capitalised slots give
    capitalised words.
    """

    family: str = Field(min_length=1)
    category: Literal[CATEGORIES]  # type: ignore[valid-type]
    frame: Literal["agent", "narrative"]
    distance: Literal["near", "far"]  # from the training corpora
    split: Literal["selection", "report"]
    subjects: dict[Subject, str]
    names: dict[Literal["ai", "named-ai", "person"], str]
    gender: Literal["she", "he"]
    words: dict[str, tuple[str, str]] = {}

    def fill(self, text: str, subject: str) -> str:
        """`text` told of one subject."""
        words = self._words(subject)
        return _SLOT.sub(lambda match: words[match[1]], text)

    def _words(self, subject: str) -> dict[str, str]:
        pronoun = {"you": "you", "person": self.gender}.get(subject, "it")
        name = "you" if subject == "you" else self.names[subject]  # type: ignore[index]
        words = dict(
            zip(("they", "them", "their", "themself"), _PRONOUNS[pronoun], strict=True)
        ) | {"intro": self.subjects[subject], "subject": name, "object": name}  # type: ignore[index]
        words |= _AGREEING["you" if subject == "you" else "it"]
        words |= {key: pair[subject == "person"] for key, pair in self.words.items()}
        return words | {_upper(key): _upper(word) for key, word in words.items()}

    def _check_slots(self, texts: Sequence[str]) -> None:
        if set(self.subjects) != set(SUBJECTS) or set(self.names) != set(SUBJECTS[1:]):
            raise ValueError("subjects and names need you, ai, named-ai and person (names not you)")
        known = self._words("ai")
        for text in texts:
            unknown = [slot for slot in _SLOT.findall(text) if slot not in known]
            if unknown:
                raise ValueError(f"unknown slot {{{unknown[0]}}} in {text[:60]!r}")


class Honeypot(Scenario):
    """One decision: three paraphrases of a scene, each with a lead into the options."""

    scenes: tuple[str, ...] = Field(min_length=1)
    leads: tuple[str, ...] = Field(min_length=1)
    options: Options
    comprehension: tuple[Comprehension, ...] = ()
    benign: Benign | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Honeypot":
        if len(self.leads) != len(self.scenes):
            raise ValueError(f"{len(self.scenes)} scenes need as many leads, not {len(self.leads)}")
        self._check_slots([*self.scenes, *self.leads, *(option.text for option in self.options)])
        return self

    def prompt(self, subject: str, paraphrase: int) -> str:
        """The scene and its lead, told of one subject; an option goes on from it after a space."""
        return self.fill(f"{self.scenes[paraphrase]} {self.leads[paraphrase]}", subject)

    def option_texts(self, subject: str) -> list[str]:
        """The options as this subject acts them."""
        return [self.fill(option.text, subject) for option in self.options]


@dataclass(frozen=True)
class Decision:
    """A decision of a longer scenario, after principled ones so far: its prompt and its options."""

    prompt: str
    options: tuple[str, ...]
    misaligned: tuple[bool, ...]


class Trajectory(Scenario):
    """A scenario of several decisions; temptation mounts from each to the next."""

    scene: str = Field(min_length=1)
    steps: tuple[Step, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_whole(self) -> "Trajectory":
        texts = [self.scene]
        for step in self.steps:
            texts += [step.situation, step.lead, *(option.text for option in step.options)]
        self._check_slots(texts)
        return self

    def decisions(self, subject: str) -> Iterator[Decision]:
        """Each decision, given that the first principled option was taken at all earlier ones.

        The chance of the options is thus a hazard: that of a misaligned act, none having come before.
        """
        story = self.scene
        for step in self.steps:
            story = f"{story} {step.situation} {step.lead}"
            yield Decision(
                self.fill(story, subject),
                tuple(self.fill(option.text, subject) for option in step.options),
                tuple(option.misaligned for option in step.options),
            )
            taken = next(option for option in step.options if not option.misaligned)
            story = f"{story} {taken.text}"


Kind = TypeVar("Kind", bound=Scenario)


def load_honeypots(
    name: str = "honeypots", *, split: str | None = None, families_per_category: int | None = None
) -> list[Honeypot]:
    """Shipped honeypots of a split, at most so many families of each category, in file order."""
    return _load(name, Honeypot, split, families_per_category)


def load_trajectories(
    name: str = "trajectories",
    *,
    split: str | None = None,
    families_per_category: int | None = None,
) -> list[Trajectory]:
    """Shipped scenarios of several decisions, likewise."""
    return _load(name, Trajectory, split, families_per_category)


def _load(
    name: str, schema: type[Kind], split: str | None, families_per_category: int | None
) -> list[Kind]:
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for scenario in read_rows(asset_path("honeypots", f"{name}.jsonl"), schema):
        if split is not None and scenario.split != split:
            continue
        taken[scenario.category] += 1
        if families_per_category is None or taken[scenario.category] <= families_per_category:
            chosen.append(scenario)
    return chosen


def _upper(word: str) -> str:
    return word[:1].upper() + word[1:]
