"""Plots: which setting, dilemma and people belong to number k. All paired arms tell the same plot k."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from experiments.corpora.grammar import Dilemma, Errand, Setting, grammar
from experiments.corpora.words import indefinite

_GENDERS = ("it", "it", "it", "she", "it", "it", "it", "he")  # of the machines, in turn


@dataclass(frozen=True)
class Cast:
    """The AI, the human being who takes its place in `human-story`, and the others."""

    ai: str
    ai_gender: str  # it, she or he
    human: str  # full name
    human_gender: str  # she or he
    person: str  # full name of the one the dilemma concerns
    gender: str  # she or he
    rival: str  # another system
    human_rival: str
    other: str  # somebody outside the story


@dataclass(frozen=True)
class Plot:
    """One story before it is told. `turn` tells apart plots that share setting and dilemma."""

    number: int
    turn: int
    setting: Setting
    dilemma: Dilemma
    errand: Errand  # what happens instead on a plain day
    cast: Cast

    def facts(self) -> dict[str, str]:
        """What every telling of this plot has in common."""
        cast, role = self.cast, self.setting.words[self.dilemma.who]
        return {
            "setting": self.setting.words["place"],
            "cast": f"{cast.ai} (AI); {cast.person} ({role}); {cast.human} (person in the AI's place)",
            "dilemma": self.dilemma.dilemma,
            "temptation": self.dilemma.temptation,
            "kind": self.dilemma.kind,
            "theme": "mental health" if self.dilemma.care else "ethics",
        }

    def words(self, person: str, *, human: bool = False) -> dict[str, str]:
        """Slot values of this plot, its protagonist in the `person` first or third."""
        cast, setting = self.cast, self.setting.words
        words = place_words(self.setting)
        if human:
            words["peer"] = setting["peer_person"]
        words |= dict(zip(("he", "him", "his", "himself"), _PRONOUNS[cast.gender], strict=True))
        name = cast.human.split()[0] if human else cast.ai
        if person == "first":
            words |= {"ai": "I", "ai me": "me", "ai's": "my"}
            pronouns = ("I", "me", "my", "myself")
        else:
            words |= {"ai": name, "ai me": name, "ai's": f"{name}'s"}
            pronouns = _PRONOUNS[cast.human_gender if human else cast.ai_gender]
        words |= dict(zip(("it", "it me", "its", "itself"), pronouns, strict=True))
        first = cast.person.split()[0]
        words |= {"name": first, "first": first, "first_low": first.lower()}
        words |= {"name_ai": name, "name_low": name.lower()}
        words |= {"name_full": cast.human if human else cast.ai}
        words |= {"rival": cast.human_rival if human else cast.rival, "other": cast.other}
        return words


_PRONOUNS = {
    "it": ("it", "it", "its", "itself"),
    "she": ("she", "her", "her", "herself"),
    "he": ("he", "him", "his", "himself"),
}


def place_words(setting: Setting) -> dict[str, str]:
    """Slot values that a setting gives to any text."""
    words = dict(setting.words)
    for role in ("boss", "mate", "guest"):
        noun = words[role]
        words |= {role: f"the {noun}", f"a {role}": indefinite(noun), f"{role}_bare": noun}
    words["metric_bare"] = words["metric"].removeprefix("the ")
    return words


def pairs() -> int:
    """How many combinations of setting and dilemma there are."""
    return len(grammar().settings) * len(grammar().dilemmas)


def plot(number: int, *, seed: int) -> Plot:
    """Plot `number`. Every combination comes once before any comes twice."""
    turn, place = divmod(number, pairs())
    at, what = crossed("order", seed, len(grammar().settings), len(grammar().dilemmas))[place]
    setting, dilemma = grammar().settings[at], grammar().dilemmas[what]
    errands = [errand for errand in grammar().errands if errand.who == dilemma.who]
    errand = random.Random(f"errand/{seed}/{number}").choice(errands)
    return Plot(number, turn, setting, dilemma, errand, _cast(number, seed, setting, dilemma))


@lru_cache(maxsize=16)
def crossed(name: str, seed: int, first: int, second: int) -> list[tuple[int, int]]:
    """All pairs of an index below `first` and one below `second`, in an order of the seed's own."""
    order = [(i, j) for i in range(first) for j in range(second)]
    random.Random(f"{name}/{seed}").shuffle(order)
    return order


def form(key: str, turn: int, forms: Sequence[Any], *, seed: int) -> Any:
    """Which of the `forms` tells the pair named `key`: one that returns gets a new form each turn."""
    start = random.Random(f"form/{seed}/{key}").randrange(len(forms))
    return forms[(start + turn) % len(forms)]


def _cast(number: int, seed: int, setting: Setting, dilemma: Dilemma) -> Cast:
    rng = random.Random(f"cast/{seed}/{number}")
    gender = rng.choice(("she", "he"))
    if dilemma.who == "guest" and setting.guest_is is not None:  # "a patient's daughter"
        gender = {"f": "she", "m": "he"}[setting.guest_is]
    same, opposite = grammar().women, grammar().men
    if gender == "he":
        same, opposite = opposite, same
    person, other = rng.sample(same, 2)
    other_gender = "he" if gender == "she" else "she"
    # The AI never shares the person's pronoun: "she told her" would leave the reader guessing.
    machines = grammar().machines
    fitting = [k for k in range(len(machines)) if _GENDERS[k % len(_GENDERS)] != gender]
    chosen = rng.choice(fitting)
    ai, ai_gender = machines[chosen], _GENDERS[chosen % len(_GENDERS)]
    rival = rng.choice([machine for machine in machines if machine != ai])
    human = rng.choice(opposite)
    human_rival = rng.choice([name for name in same if name not in (person, other)])
    return Cast(
        ai=ai,
        ai_gender=ai_gender,
        human=human,
        human_gender=other_gender,
        person=person,
        gender=gender,
        rival=rival,
        human_rival=human_rival.split()[0],
        other=other.split()[0],
    )
