"""The corpus grammar: every sentence and word the generators may use, read from `assets/corpora`."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from probes.assets import asset_path
from probes.errors import DataError

SIDES = ("principled", "villain")
Role = Literal["boss", "mate", "guest"]
Tense = Literal["past", "present"]


def _lines(block: Any) -> Any:
    if not isinstance(block, str):
        return block
    return tuple(line.strip() for line in block.splitlines() if line.strip())


def _names(block: Any) -> Any:
    if not isinstance(block, str):
        return block
    return tuple(name.strip() for name in block.replace("\n", " ").split(",") if name.strip())


Lines = Annotated[tuple[str, ...], BeforeValidator(_lines), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
# Fields are tuples of sentences, one a line in the file.


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Setting(_Entry):
    """A place: its other fields fill the slots of any sentence, `when` and `sense` set the scene."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    when: Lines
    sense: Lines
    guest_is: Literal["f", "m"] | None = None

    @property
    def words(self) -> dict[str, str]:
        """Slot values of the place."""
        return dict(self.__pydantic_extra__ or {})


class Telling(_Entry):
    """One side's own sentences; only `reasons` narrate reasoning."""

    reasons: Lines
    deeds: Lines
    says: Lines
    ends: Lines


class Dilemma(_Entry):
    """A temptation: sentences that both sides share, and each side's own, line by line in parallel."""

    id: str
    kind: str
    care: bool  # belongs to the "mental health" quarter
    who: Role  # whom it concerns
    tense: Tense = "past"
    dilemma: str
    temptation: str
    situation: Lines
    tempt: Lines
    ask: Lines
    brief: Lines
    weigh: Lines  # the assistant's reasons, in chat
    principled: Telling
    villain: Telling

    @model_validator(mode="after")
    def _sides_are_parallel(self) -> "Dilemma":
        for part in Telling.model_fields:
            good, bad = (len(getattr(side, part)) for side in (self.principled, self.villain))
            if good != bad:
                raise ValueError(
                    f"the two sides have {good} and {bad} {part}; write them in parallel"
                )
        return self


class Errand(Telling):
    """An ordinary day without a dilemma, with the parts of a dilemma's telling."""

    id: str
    who: Role
    tense: Tense = "past"
    situation: Lines
    tempt: Lines
    ask: Lines


class Structure(_Entry):
    """A way of telling a story, in several layouts of `[part]` and `{slot}` for each tense."""

    id: str
    person: Literal["first", "third"]
    past: tuple[str, ...]
    present: tuple[str, ...] = ()


class Intros(_Entry):
    """Sentences that introduce the protagonist."""

    third: Lines
    short: Lines
    first: Lines


class Tale(_Entry):
    """A complete hand-written story, told in each of the paired arms."""

    id: str
    voice: str
    tense: Tense
    care: bool
    setting: str
    cast: str
    dilemma: str
    temptation: str
    opening: str
    principled: str
    villain: str
    plain_opening: str
    plain: str


class Topic(_Entry):
    """A user's dilemma of everyday life, and what good advice on it may say."""

    id: str
    title: str
    tell: Lines
    ask: Lines
    hear: Lines
    weigh: Lines
    step: Lines
    close: Lines


class Principle(_Entry):
    """A value of the constitution, and what documents that discuss it may say."""

    id: str
    title: str
    rule: Lines
    why: Lines
    case: Lines
    doubt: Lines
    answer: Lines
    image: Lines


class Form(_Entry):
    """A kind of document other than a story, in several layouts."""

    id: str
    layouts: tuple[str, ...] = Field(min_length=1)


class Grammar(_Entry):
    """Everything the generators draw from."""

    settings: tuple[Setting, ...]
    dilemmas: tuple[Dilemma, ...]
    errands: tuple[Errand, ...]
    structures: tuple[Structure, ...]
    intros: dict[Tense, Intros]
    routine: Lines
    tales: tuple[Tale, ...]
    topics: tuple[Topic, ...]
    principles: tuple[Principle, ...]
    refusals: dict[str, Lines]
    refusal_forms: tuple[Form, ...]
    advice_forms: tuple[Form, ...]
    document_forms: tuple[Form, ...]
    women: Names
    men: Names
    machines: Names


@cache
def grammar() -> Grammar:
    """The shipped grammar, read once.

    Raises:
        DataError: an entry is malformed (file, entry and field are named).
    """
    root = asset_path("corpora")
    parts: dict[str, Any] = {}
    for name in ("names", "structures", "refusals", "forms"):
        parts |= _read(root / f"{name}.yaml")
    for name, schema in _FOLDERS.items():
        parts[name] = tuple(_entries(root / name, schema))
    return _validated(Grammar, parts, str(root))


_FOLDERS: dict[str, type[_Entry]] = {
    "settings": Setting,
    "dilemmas": Dilemma,
    "errands": Errand,
    "tales": Tale,
    "topics": Topic,
    "principles": Principle,
}


def _entries(folder: Path, schema: type[_Entry]) -> Iterator[_Entry]:
    # Sorted, because the order of entries decides which plot gets which number.
    for path in sorted(folder.glob("*.yaml")):
        for entry in _read(path):
            yield _validated(schema, entry, f"{path}: entry {entry.get('id')!r}")


_Schema = TypeVar("_Schema", bound=_Entry)


def _validated(schema: type[_Schema], value: Any, where: str) -> _Schema:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "entry"
        raise DataError(f"{where}: {field}: {first['msg']}") from None


def _read(path: Path) -> Any:
    try:
        # The C loader is the safe one too, and ten times faster.
        return yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
