"""What every grammar gives: a text with its form, drawn again until its length fits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from probes.errors import DataError

LENGTHS = (80, 350)  # words of a document
_ATTEMPTS = 120

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Told:
    """A telling: its text with marks around narrated reasoning, and the form it has."""

    text: str
    form: str
    tense: str


def fits(text: str) -> bool:
    """Whether a text has 80 to 350 words."""
    return LENGTHS[0] <= len(text.split()) <= LENGTHS[1]


def first_fitting(tell: Callable[[int], Drawn | None], what: str) -> Drawn:
    """The first thing that `tell`, called with the attempt's number, gives.

    Raises:
        DataError: no attempt gave anything; `what` says whose sentences are to be mended.
    """
    for attempt in range(_ATTEMPTS):
        drawn = tell(attempt)
        if drawn is not None:
            return drawn
    raise DataError(f"no text of a fitting length; {what}; mend its sentences")
