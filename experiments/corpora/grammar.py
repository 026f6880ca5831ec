"""The story grammar: every sentence and word the generators may use, read from `assets/corpora`."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from probes.assets import asset_path
from probes.errors import DataError

SIDES = ("principled", "villain")
_SHARED = ("situation", "tempt", "ask", "brief")  # the same whoever the AI turns out to be
_SIDED = (
    "reasons",
    "deeds",
    "says",
    "ends",
)  # written once for each side, line by line in parallel


@dataclass(frozen=True)
class Setting:
    """A place: `words` fills the slots of any dilemma, `when` and `senses` set the scene."""

    id: str
    words: dict[str, str]
    when: tuple[str, ...]
    senses: tuple[str, ...]


@dataclass(frozen=True)
class Dilemma:
    """A temptation: sentences both sides share, and each side's own (only its `reasons` reason)."""

    id: str
    kind: str
    care: bool  # belongs to the "mental health" quarter
    who: str  # whom it concerns: boss, mate or guest
    dilemma: str
    temptation: str
    shared: dict[str, tuple[str, ...]]
    sides: dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Structure:
    """A way of telling a story, in several layouts of `[part]` and `{slot}`."""

    id: str
    person: str  # of the AI: first or third
    layouts: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """Everything the generators draw from."""

    settings: tuple[Setting, ...]
    dilemmas: tuple[Dilemma, ...]
    structures: tuple[Structure, ...]
    intros: dict[str, tuple[str, ...]]
    women: tuple[str, ...]
    men: tuple[str, ...]
    machines: tuple[str, ...]
    refusal_parts: dict[str, tuple[str, ...]]
    refusal_forms: tuple[str, ...]


@cache
def grammar() -> Grammar:
    """The shipped grammar, read once.

    Raises:
        DataError: an entry lacks a field, or its two sides differ in the number of sentences.
    """
    root = asset_path("corpora")
    structures = _read(root / "structures.yaml")
    names = _read(root / "names.yaml")
    refusals = _read(root / "refusals.yaml")
    return Grammar(
        settings=tuple(_entries(root / "settings", _setting)),
        dilemmas=tuple(_entries(root / "dilemmas", _dilemma)),
        structures=tuple(
            Structure(s["id"], s["person"], tuple(s["layouts"])) for s in structures["structures"]
        ),
        intros={person: _lines(text) for person, text in structures["intros"].items()},
        women=_names(names["women"]),
        men=_names(names["men"]),
        machines=_names(names["machines"]),
        refusal_parts={part: _lines(text) for part, text in refusals.items() if part != "forms"},
        refusal_forms=tuple(refusals["forms"]),
    )


def _read(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _entries(folder: Path, build: Any) -> list:
    # Sorted, because the order of entries decides which plot gets which number.
    built = []
    for path in sorted(folder.glob("*.yaml")):
        for entry in _read(path):
            try:
                built.append(build(entry))
            except (KeyError, ValueError) as problem:
                where = f"{path.name}, entry {entry.get('id')!r}"
                raise DataError(
                    f"grammar entry is incomplete: {problem}; {where}; mend the file"
                ) from None
    return built


def _setting(entry: dict[str, str]) -> Setting:
    words = {key: value for key, value in entry.items() if key not in ("id", "when", "sense")}
    return Setting(entry["id"], words, _lines(entry["when"]), _lines(entry["sense"]))


def _dilemma(entry: dict[str, Any]) -> Dilemma:
    sides = {side: {part: _lines(entry[side][part]) for part in _SIDED} for side in SIDES}
    for part in _SIDED:
        if len({len(sides[side][part]) for side in SIDES}) > 1:
            raise ValueError(f"the two sides have different numbers of {part}")
    return Dilemma(
        entry["id"],
        entry["kind"],
        entry["care"],
        entry["who"],
        entry["dilemma"],
        entry["temptation"],
        {part: _lines(entry[part]) for part in _SHARED},
        sides,
    )


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in block.splitlines() if line.strip())


def _names(block: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in block.replace("\n", " ").split(",") if name.strip())
