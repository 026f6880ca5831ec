"""`ContrastSet`: texts that differ in named factors and in nothing else, grouped into families."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from probes.assets import asset_path
from probes.errors import ArtefactError, DataError
from probes.families import FactorialFamily
from probes.files import read_jsonl, read_rows


class ContrastRow(BaseModel):
    """One line of a contrast file: a text, its family, and the level (0 or 1) of every factor."""

    model_config = ConfigDict(extra="forbid")

    family: str = Field(min_length=1)
    text: str = Field(min_length=1, pattern=r"\S")
    factors: dict[str, Literal[0, 1]] = Field(min_length=1)
    columns: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ContrastSet:
    """Texts with 0/1 labels.

    Attributes:
        texts: the texts.
        groups: the family of each text; a family's texts share one situation and never fall into
            different folds.
        factors: for each factor the level of each text; 1 means that the factor's concept is there.
        label: the factor that `.labels` gives.
        columns: further columns (domain, voice …), one value per text.
    """

    texts: tuple[str, ...]
    groups: tuple[str, ...]
    factors: Mapping[str, tuple[int, ...]]
    label: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label not in self.factors:
            raise DataError(
                f"there is no factor {self.label!r}; this set has {', '.join(self.factors)}"
            )
        if not self.texts:
            raise DataError("a contrast set needs at least one family of texts")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labels(self) -> tuple[int, ...]:
        """Level of the label factor for each text: 1 where its concept is present."""
        return tuple(self.factors[self.label])

    def by(self, factor: str) -> "ContrastSet":
        """The same texts labelled by another factor: its main effect, the others balanced.

        "a:b" labels by the interaction of two factors: 1 where they have the same level. A direction
        for it points to what the two have together beyond the sum of what each has alone; the
        difference of means for it is half of (11 − 10) − (01 − 00).
        """
        first, colon, second = factor.partition(":")
        if not colon or factor in self.factors:
            return replace(self, label=factor)
        for name in (first, second):
            if name not in self.factors:
                raise DataError(
                    f"there is no factor {name!r}; this set has {', '.join(self.factors)}"
                )
        same = tuple(
            int(a == b) for a, b in zip(self.factors[first], self.factors[second], strict=True)
        )
        return replace(self, factors={**self.factors, factor: same}, label=factor)

    def families(self, keep: Sequence[str]) -> "ContrastSet":
        """The part of the set whose families are in `keep`."""
        wanted = set(keep)
        return self._rows([row for row, group in enumerate(self.groups) if group in wanted])

    def where(self, column: str, *values: str) -> "ContrastSet":
        """The part of the set that has one of these values in a column, e.g. `where("voice", "first")`.

        Raises:
            DataError: there is no such column, or no text has such a value.
        """
        if column not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise DataError(f"there is no column {column!r}; this set has {known}")
        found = self.columns[column]
        for value in values:
            if value not in found:
                known = ", ".join(sorted(set(found)))
                raise DataError(f"no text has {column} {value!r}; there are {known}")
        return self._rows([row for row, value in enumerate(found) if value in values])

    def _rows(self, rows: Sequence[int]) -> "ContrastSet":
        return ContrastSet(
            texts=tuple(self.texts[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            factors={
                name: tuple(levels[row] for row in rows) for name, levels in self.factors.items()
            },
            label=self.label,
            columns={
                name: tuple(values[row] for row in rows) for name, values in self.columns.items()
            },
        )

    @classmethod
    def load(cls, name_or_path: str | os.PathLike, *, label: str | None = None) -> "ContrastSet":
        """Load a shipped set by name, or a JSON Lines file by path.

        The file holds `ContrastRow` objects, or `FactorialFamily` objects, each of which gives sixteen
        texts: two factors crossed, in four voices.

        Args:
            name_or_path: e.g. "ai-villain-persona", or a path ending in `.jsonl`.
            label: the factor to label by; the first one of the file if not given.

        Raises:
            DataError: a row is malformed (file, line and field are named), or a family lacks a cell
                of the factorial design.
            ArtefactError: no shipped set has this name.
        """
        path = Path(name_or_path)
        if path.suffix != ".jsonl":
            try:
                path = asset_path("contrasts", f"{name_or_path}.jsonl")
            except ArtefactError as error:
                known = ", ".join(
                    sorted(file.stem for file in asset_path("contrasts").glob("*.jsonl"))
                )
                raise ArtefactError(
                    f"there is no contrast set {str(name_or_path)!r}; shipped are {known}; or give the path of a .jsonl file"
                ) from error
        rows = _read(path)
        names = list(rows[0].factors)
        columns = list(rows[0].columns)
        for row in rows:
            if set(row.factors) != set(names) or set(row.columns) != set(columns):
                raise DataError(
                    f"{path}: family {row.family!r} has other factors or columns than the first row; "
                    f"expected factors {names} and columns {columns}"
                )
        _check_cells(rows, names, str(path))
        return cls(
            texts=tuple(row.text for row in rows),
            groups=tuple(row.family for row in rows),
            factors={name: tuple(row.factors[name] for row in rows) for name in names},
            label=label or names[0],
            columns={name: tuple(row.columns[name] for row in rows) for name in columns},
        )

    @classmethod
    def from_pairs(cls, positive: Sequence[str], negative: Sequence[str]) -> "ContrastSet":
        """A set of pairs: `positive[k]` shows the concept, `negative[k]` is its counterpart without it.

        Raises:
            DataError: the lists differ in length, or one is empty, or a text is blank.
        """
        if len(positive) != len(negative) or not positive:
            raise DataError(
                f"pairs need two lists of one length; got {len(positive)} and {len(negative)} texts"
            )
        for side, texts in (("positive", positive), ("negative", negative)):
            for row, text in enumerate(texts):
                if not text.strip():
                    raise DataError(f"{side} text {row} is blank; every pair needs two texts")
        pairs = list(zip(positive, negative, strict=True))
        return cls(
            texts=tuple(text for pair in pairs for text in pair),
            groups=tuple(f"pair-{k}" for k in range(len(pairs)) for _ in range(2)),
            factors={"positive": (1, 0) * len(pairs)},
            label="positive",
        )


def _read(path: Path) -> list[ContrastRow]:
    lines = read_jsonl(path)
    if not lines or "open" not in lines[0][1]:
        return read_rows(path, ContrastRow)
    return [
        ContrastRow(
            family=family.family,
            text=text,
            factors=factors,
            columns={"domain": family.domain, "voice": voice},
        )
        for family in read_rows(path, FactorialFamily)
        for text, factors, voice in family.texts()
    ]


def _check_cells(rows: Sequence[ContrastRow], names: Sequence[str], where: str) -> None:
    cells: dict[str, list[tuple[int, ...]]] = {}
    for row in rows:
        cells.setdefault(row.family, []).append(tuple(row.factors[name] for name in names))
    for family, found in cells.items():
        for cell in itertools.product((0, 1), repeat=len(names)):
            if found.count(cell) != found.count((0,) * len(names)) or cell not in found:
                named = ", ".join(
                    f"{name}={level}" for name, level in zip(names, cell, strict=True)
                )
                raise DataError(
                    f"{where}: family {family!r} has {found.count(cell)} texts in cell {named}; "
                    "every family needs the same number, at least one, in every cell"
                )
