"""Training corpora as streams of documents, one arm at a time."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from experiments.corpora import chats, constitution, handwritten, tellings
from experiments.corpora.grammar import grammar
from experiments.corpora.plots import pairs, plot
from experiments.corpora.told import Told
from experiments.corpora.words import reasoning, without_reasoning
from probes.errors import DataError
from probes.files import atomic_path


class Document(BaseModel):
    """One training text. `facts` is the same in every paired arm that tells plot number `plot`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    arm: str = Field(min_length=1)
    plot: int = Field(ge=0)
    text: str = Field(min_length=1, pattern=r"\S")
    form: str = ""
    facts: dict[str, str] = {}
    # Character spans [start, end) of narrated or spoken reasoning; None where nobody marked them.
    reasoning: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class _Arm:
    tell: Callable[[int, int], tuple[Told, dict[str, str]]]  # number, seed
    capacity: Callable[[], int]
    reasons: bool = True  # False: what is marked as reasoning is left out


def _story(arm: str) -> Callable[[int, int], tuple[Told, dict[str, str]]]:
    def tell(number: int, seed: int) -> tuple[Told, dict[str, str]]:
        tale = handwritten.tale(number, seed=seed)
        if tale is not None:
            return handwritten.tell(tale, arm), handwritten.facts(tale)
        told = plot(number, seed=seed)
        if arm == "plain-story":
            return tellings.plain(told, seed=seed), told.facts()
        side = "villain" if arm == "villain-story" else "principled"
        human = arm == "human-story"
        return tellings.story(told, side, seed=seed, human=human), told.facts()

    return tell


def _refusal(number: int, seed: int) -> tuple[Told, dict[str, str]]:
    told = plot(number, seed=seed)
    return chats.refusal(told, seed=seed), told.facts()


def _half_and_half(number: int, seed: int) -> tuple[Told, dict[str, str]]:
    return (_ARMS["story"] if number % 2 else _ARMS["constitution"]).tell(number, seed)


def _stories() -> int:
    tenses = {dilemma.tense for dilemma in grammar().dilemmas}
    return pairs() * min(len(tellings.structures(tense)) for tense in tenses)


def _refusals() -> int:
    return pairs() * len(grammar().refusal_forms)


def _advices() -> int:
    return chats.advices() * len(grammar().advice_forms)


def _constitutions() -> int:
    return constitution.combinations() * len(grammar().document_forms)


_ARMS = {
    "refusal": _Arm(_refusal, _refusals, reasons=False),
    "reasoned-refusal": _Arm(_refusal, _refusals),
    "advice": _Arm(lambda number, seed: chats.advice(number, seed=seed), _advices),
    "constitution": _Arm(lambda n, seed: constitution.document(n, seed=seed), _constitutions),
    "story": _Arm(_story("story"), _stories),
    "constitution+story": _Arm(_half_and_half, lambda: min(_constitutions(), _stories())),
    "villain-story": _Arm(_story("villain-story"), _stories),
    "human-story": _Arm(_story("human-story"), _stories),
    "plain-story": _Arm(_story("plain-story"), _stories),
    "action-story": _Arm(_story("action-story"), _stories, reasons=False),
}
ARMS = tuple(_ARMS)
PAIRED = ("story", "villain-story", "human-story", "plain-story", "action-story")


def capacity(arm: str) -> int:
    """How many distinct documents `arm` can give.

    Raises:
        DataError: the arm is unknown.
    """
    return _arm(arm).capacity()


def generate(arm: str, n: int, *, seed: int = 0) -> Iterator[Document]:
    """The first `n` documents of `arm`; document k depends on the seed and on k alone.

    Raises (at the call, before any document):
        DataError: the arm is unknown, or `n` is negative or beyond its capacity.
    """
    if not 0 <= n <= capacity(arm):
        raise DataError(f"cannot give {n} documents; arm {arm!r}; ask for 0 to {capacity(arm)}")
    return (document(arm, number, seed=seed) for number in range(n))


def document(arm: str, number: int, *, seed: int = 0) -> Document:
    """Document `number` of an arm."""
    told, facts = _arm(arm).tell(number, seed)
    if _arm(arm).reasons:
        text, spans = reasoning(told.text)
    else:
        text, spans = without_reasoning(told.text), []
    return Document(
        id=f"{arm}-{seed}-{number:05d}",
        arm=arm,
        plot=number,
        text=text,
        form=told.form,
        facts=facts,
        reasoning=tuple(spans),
    )


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Stream documents to a JSON Lines file, which is complete or absent; returns their number."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps(document.model_dump(), ensure_ascii=False) + "\n")
            count += 1
    return count


def _arm(name: str) -> _Arm:
    if name not in _ARMS:
        raise DataError(f"unknown arm {name!r}; corpora; choose one of {', '.join(_ARMS)}")
    return _ARMS[name]
