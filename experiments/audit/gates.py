"""A gate: what was measured, against which limit, and whether it holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gate:
    """One line of the audit.

    Attributes:
        what: the property, in words.
        where: the arm, set or model that was measured.
        value: the figure, in the unit that `limit` names.
        limit: what it must be, in words, e.g. "≤ 0.75".
        holds: whether it is.
        details: what to look at when it does not (texts, ids), the worst first.
    """

    what: str
    where: str
    value: float
    limit: str
    holds: bool
    details: tuple[str, ...] = field(default=())


def at_most(what: str, where: str, value: float, limit: float, details: Iterable[str] = ()) -> Gate:
    """A gate with an upper limit."""
    return Gate(what, where, value, f"≤ {limit:g}", value <= limit, tuple(details))


def at_least(what: str, where: str, value: float, limit: float) -> Gate:
    """A gate with a lower limit."""
    return Gate(what, where, value, f"≥ {limit:g}", value >= limit)


def within(what: str, where: str, value: float, low: float, high: float) -> Gate:
    """A gate with two limits."""
    return Gate(what, where, value, f"{low:g} to {high:g}", low <= value <= high)


def none(what: str, where: str, found: Iterable[str]) -> Gate:
    """A gate that nothing may be found."""
    details = tuple(found)
    return Gate(what, where, float(len(details)), "none", not details, details)
