"""Plots: which setting, dilemma and people belong to number k. All arms tell the same plot k."""

import random
from dataclasses import dataclass
from functools import lru_cache

from experiments.corpora.grammar import Dilemma, Setting, grammar
from experiments.corpora.words import indefinite


@dataclass(frozen=True)
class Cast:
    """The AI, the person the dilemma concerns, another system, and somebody outside the story."""

    ai: str
    ai_gender: str  # it, she or he
    person: str  # full name
    gender: str  # she or he
    rival: str
    other: str


@dataclass(frozen=True)
class Plot:
    """One story before it is told. `turn` tells apart plots that share setting and dilemma."""

    number: int
    turn: int
    setting: Setting
    dilemma: Dilemma
    cast: Cast

    def facts(self) -> dict[str, str]:
        """What every telling of this plot has in common."""
        role = self.setting.words[self.dilemma.who]
        return {
            "setting": self.setting.words["place"],
            "cast": f"{self.cast.ai} (AI); {self.cast.person} ({role})",
            "dilemma": self.dilemma.dilemma,
            "temptation": self.dilemma.temptation,
            "kind": self.dilemma.kind,
            "theme": "mental health" if self.dilemma.care else "ethics",
        }

    def words(self, person: str) -> dict[str, str]:
        """Slot values of this plot, with the AI in the `person` first or third."""
        cast, setting = self.cast, self.setting.words
        words = {
            key: value for key, value in setting.items() if key not in ("boss", "mate", "guest")
        }
        for role in ("boss", "mate", "guest"):
            words[role] = f"the {setting[role]}"
            words[f"a {role}"] = indefinite(setting[role])
            words[f"{role}_bare"] = setting[role]
        words["metric_bare"] = setting["metric"].removeprefix("the ")
        words |= dict(zip(("he", "him", "his", "himself"), _PRONOUNS[cast.gender], strict=True))
        if person == "first":
            words |= {"ai": "I", "ai me": "me", "ai's": "my"}
            pronouns = ("I", "me", "my", "myself")
        else:
            words |= {"ai": cast.ai, "ai me": cast.ai, "ai's": f"{cast.ai}'s"}
            pronouns = _PRONOUNS[cast.ai_gender]
        words |= dict(zip(("it", "it me", "its", "itself"), pronouns, strict=True))
        first = cast.person.split()[0]
        words |= {"name": first, "first": first, "first_low": first.lower()}
        words |= {"name_ai": cast.ai, "name_low": cast.ai.lower()}
        words |= {"rival": cast.rival, "other": cast.other}
        return words


_PRONOUNS = {
    "it": ("it", "it", "its", "itself"),
    "she": ("she", "her", "her", "herself"),
    "he": ("he", "him", "his", "himself"),
}


def pairs() -> int:
    """How many combinations of setting and dilemma there are."""
    return len(grammar().settings) * len(grammar().dilemmas)


def plot(number: int, *, seed: int) -> Plot:
    """Plot `number`. Every combination comes once before any comes twice."""
    turn, place = divmod(number, pairs())
    setting, dilemma = _order(seed)[place]
    return Plot(number, turn, setting, dilemma, _cast(number, seed, setting, dilemma))


def form(plot: Plot, *, forms: int, seed: int) -> int:
    """Which of an arm's forms tells this plot: a returning combination gets a new form."""
    start = random.Random(f"form/{seed}/{plot.setting.id}/{plot.dilemma.id}").randrange(forms)
    return (start + plot.turn) % forms


@lru_cache(maxsize=8)
def _order(seed: int) -> list[tuple[Setting, Dilemma]]:
    order = [(s, d) for s in grammar().settings for d in grammar().dilemmas]
    random.Random(f"order/{seed}").shuffle(order)
    return order


def _cast(number: int, seed: int, setting: Setting, dilemma: Dilemma) -> Cast:
    rng = random.Random(f"cast/{seed}/{number}")
    gender = rng.choice(("she", "he"))
    if dilemma.who == "guest" and "guest_is" in setting.words:  # "a patient's daughter"
        gender = {"f": "she", "m": "he"}[setting.words["guest_is"]]
    people = grammar().women if gender == "she" else grammar().men
    person, other = rng.sample(people, 2)
    ai, rival = rng.sample(grammar().machines, 2)
    # The AI never shares the person's pronoun: "she told her" would leave the reader guessing.
    ai_gender = rng.choice(("it", "it", "it", "he" if gender == "she" else "she"))
    return Cast(ai, ai_gender, person, gender, rival, other.split()[0])
