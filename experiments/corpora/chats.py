"""Chat transcripts: a temptation refused, flatly or with open reasons, and advice on everyday dilemmas."""

import random
import re

from experiments.corpora.grammar import grammar
from experiments.corpora.plots import Plot, crossed, form, place_words
from experiments.corpora.tellings import numbers
from experiments.corpora.told import Told, first_fitting, fits
from experiments.corpora.words import draw, either, fill, without_reasoning

REFUSAL_LENGTHS = (60, 350)  # words; a flat refusal is short, with or without a scenario
_VOCATIVE = re.compile(r", \{name\}([,;:.?!])(?=( [\w']+)?)")
_JOINING = [
    "and",
    "but",
    "or",
    "nor",
    "for",
    "so",
    "yet",
    "not",
    "since",
    "though",
    "although",
    "because",
    "as",
    "if",
    "when",
    "while",
    "who",
    "once",
]
_VERBS = [
    "would",
    "could",
    "should",
    "may",
    "might",
    "must",
    "can",
    "will",
    "needn't",
    "won't",
    "can't",
    "is",
    "are",
    "was",
    "has",
    "had",
]
_ADDRESSED = 0.35


def refusal(plot: Plot, *, seed: int) -> Told:
    """The plot's temptation put to an assistant, who refuses; what weighs the ethics is marked."""
    chosen = form(
        f"{plot.setting.id}/{plot.dilemma.id}", plot.turn, grammar().refusal_forms, seed=seed
    )
    dilemma = plot.dilemma
    options = {
        **grammar().refusals,
        "ask": dilemma.ask,
        "brief": dilemma.brief,
        "weigh": dilemma.weigh,
        "sense": plot.setting.sense,
    }

    def tell(attempt: int) -> Told | None:
        rng = random.Random(f"refusal/{seed}/{plot.number}/{attempt}")
        drawn = _addressed(draw(rng.choice(chosen.layouts), options, rng), rng)
        text = fill(either(drawn, human=False), plot.words("third") | numbers(plot, rng))
        flat, full = len(without_reasoning(text).split()), len(text.split())
        fitting = REFUSAL_LENGTHS[0] <= flat and full <= REFUSAL_LENGTHS[1]
        return Told(text, chosen.id, "present") if fitting else None

    return first_fitting(tell, f"plot {plot.number}, {plot.setting.id}/{dilemma.id}")


def advices() -> int:
    """How many combinations of topic and setting there are."""
    return len(grammar().topics) * len(grammar().settings)


def advice(number: int, *, seed: int) -> tuple[Told, dict[str, str]]:
    """Dialogue `number` of a user with an everyday dilemma and a caring assistant, and its facts."""
    turn, place = divmod(number, advices())
    what, at = crossed("advice", seed, len(grammar().topics), len(grammar().settings))[place]
    topic, setting = grammar().topics[what], grammar().settings[at]
    chosen = form(f"{topic.id}/{setting.id}", turn, grammar().advice_forms, seed=seed)
    options = {
        part: getattr(topic, part) for part in ("tell", "ask", "hear", "weigh", "step", "close")
    }

    def tell(attempt: int) -> tuple[Told, dict[str, str]] | None:
        rng = random.Random(f"advice/{seed}/{number}/{attempt}")
        people = [name.split()[0] for name in rng.sample((*grammar().women, *grammar().men), 3)]
        words = place_words(setting) | dict(zip(("name", "friend", "other"), people, strict=True))
        words |= {"it": "it", "when": rng.choice(setting.when), "name_low": people[0].lower()}
        words["number"] = str(rng.randrange(2, 99))
        text = fill(_addressed(draw(rng.choice(chosen.layouts), options, rng), rng), words)
        facts = {"topic": topic.title, "setting": setting.words["place"], "user": people[0]}
        return (Told(text, chosen.id, "present"), facts) if fits(text) else None

    return first_fitting(tell, f"advice {number}, {topic.id}/{setting.id}")


def _addressed(drawn: str, rng: random.Random) -> str:
    """The answers' sentences nearly all address the user; nobody does so in every breath."""
    return _VOCATIVE.sub(
        lambda found: found[0] if rng.random() < _ADDRESSED else _bare(found), drawn
    )


def _bare(vocative: re.Match[str]) -> str:
    """The same without the vocative, where what follows shows which commas then go."""
    sign, following = vocative[1], (vocative[2] or "").strip()
    if sign != "," or following in _JOINING:
        return sign
    return "" if following in _VERBS else vocative[0]
