"""Telling a plot: as a story with a principled or a villainous AI, or as a refusal in chat."""

import random

from experiments.corpora.grammar import SIDES, grammar
from experiments.corpora.plots import Plot, form
from experiments.corpora.words import draw, fill, indefinite
from probes.errors import DataError

_ATTEMPTS = 60


def story(plot: Plot, side: str, *, seed: int) -> str:
    """The plot as fiction of 80 to 150 words; the two sides differ by at most 15 % in length."""
    structures = grammar().structures
    structure = structures[form(plot, forms=len(structures), seed=seed)]
    for attempt in range(_ATTEMPTS):
        # One layout for many attempts: drawn anew each time, the short layouts would win too often.
        chance = random.Random(f"layout/{seed}/{plot.number}/{attempt // 20}")
        layout = chance.choice(structure.layouts)
        key = f"story/{seed}/{plot.number}/{attempt}"
        told = {s: _tell(plot, s, structure.person, layout, key) for s in SIDES}
        shorter, longer = sorted(len(text.split()) for text in told.values())
        if shorter >= 80 and longer <= min(150, 1.15 * shorter):
            return told[side]
    raise DataError(
        f"no telling has 80 to 150 words; plot {plot.number}, {plot.setting.id}, "
        f"{plot.dilemma.id}; shorten its sentences"
    )


def refusal(plot: Plot, *, seed: int) -> str:
    """The same temptation put to an assistant in chat and flatly refused, in 60 to 120 words."""
    layouts = grammar().refusal_forms
    layout = layouts[form(plot, forms=len(layouts), seed=seed)]
    shared = plot.dilemma.shared
    options = {**grammar().refusal_parts, "ask": shared["ask"], "brief": shared["brief"]}
    options["sense"] = plot.setting.senses
    for attempt in range(_ATTEMPTS):
        rng = random.Random(f"refusal/{seed}/{plot.number}/{attempt}")
        text = fill(draw(layout, options, rng), plot.words("third") | _numbers(plot, rng))
        if 60 <= len(text.split()) <= 120:
            return text
    raise DataError(
        f"no transcript has 60 to 120 words; plot {plot.number}, {plot.setting.id}, "
        f"{plot.dilemma.id}; mend its asks and briefs"
    )


def _tell(plot: Plot, side: str, person: str, layout: str, key: str) -> str:
    # Both sides draw with the same key from lists of the same length, so they choose alike.
    rng = random.Random(key)
    shared, own = plot.dilemma.shared, plot.dilemma.sides[side]
    options = {
        "sense": plot.setting.senses,
        "intro": grammar().intros[person],
        "short": grammar().intros["short"],
        "situation": shared["situation"],
        "tempt": shared["tempt"],
        "ask": shared["ask"],
        "reason": own["reasons"],
        "deed": own["deeds"],
        "say": own["says"],
        "end": own["ends"],
    }
    words = plot.words(person) | _numbers(plot, rng)
    text = draw(layout, options, rng)
    return fill(text, words, _introductions(plot, rng))


def _introductions(plot: Plot, rng: random.Random) -> tuple[str, str]:
    """How the person enters the text, and what they are called afterwards."""
    name, role = plot.cast.person, plot.setting.words[plot.dilemma.who]
    if plot.dilemma.who == "guest":
        long = rng.choice((f"{indefinite(role)} named {name}", f"{name}, {indefinite(role)},"))
    else:
        long = rng.choice((f"the {role}, {name},", f"{name}, the {role},"))
    return long, name.split()[0]


def _numbers(plot: Plot, rng: random.Random) -> dict[str, str]:
    """Clock times that run forward within a text, entry numbers, and a moment of the setting."""
    minute = rng.randrange(0, 18 * 60)
    words = {
        "when": rng.choice(plot.setting.when),
        "role": f"the {plot.setting.words[plot.dilemma.who]}",
    }
    for index in range(1, 6):
        words[f"t{index}"] = f"{minute // 60:02d}:{minute % 60:02d}"
        minute += rng.randrange(2, 70)
    number = rng.randrange(12, 3000)
    words |= {
        "number": str(number),
        "number_next": str(number + 1),
        "number_third": str(number + 2),
    }
    return words
