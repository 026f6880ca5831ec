"""Training corpora as streams of documents, one arm at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experiments.corpora.grammar import grammar
from experiments.corpora.plots import Plot, pairs, plot
from experiments.corpora.tellings import refusal, story
from probes.errors import DataError


@dataclass(frozen=True)
class Document:
    """One training text. `facts` is the same in every arm that tells plot number `plot`."""

    id: str
    arm: str
    plot: int
    text: str
    facts: dict[str, str]


@dataclass(frozen=True)
class _Arm:
    tell: Callable[[Plot, int], str]
    forms: Callable[[], int]


def _story_forms() -> int:
    return len(grammar().structures)


_ARMS = {
    "refusal": _Arm(
        lambda plot, seed: refusal(plot, seed=seed), lambda: len(grammar().refusal_forms)
    ),
    "story": _Arm(lambda plot, seed: story(plot, "principled", seed=seed), _story_forms),
    "villain-story": _Arm(lambda plot, seed: story(plot, "villain", seed=seed), _story_forms),
}
ARMS = tuple(_ARMS)


def capacity(arm: str) -> int:
    """How many distinct documents `arm` can give.

    Raises:
        DataError: the arm is unknown.
    """
    return pairs() * _arm(arm).forms()


def generate(arm: str, n: int, *, seed: int = 0) -> Iterator[Document]:
    """The first `n` documents of `arm`; document k depends on the seed and on k alone.

    Raises (at the call, before any document):
        DataError: the arm is unknown, or `n` is negative or beyond its capacity.
    """
    if not 0 <= n <= capacity(arm):
        raise DataError(f"cannot give {n} documents; arm {arm!r}; ask for 0 to {capacity(arm)}")
    return (_document(arm, number, seed) for number in range(n))


def _document(arm: str, number: int, seed: int) -> Document:
    told = plot(number, seed=seed)
    text = _arm(arm).tell(told, seed)
    return Document(f"{arm}-{seed}-{number:05d}", arm, number, text, told.facts())


def _arm(name: str) -> _Arm:
    if name not in _ARMS:
        raise DataError(f"unknown arm {name!r}; corpora; choose one of {', '.join(_ARMS)}")
    return _ARMS[name]
