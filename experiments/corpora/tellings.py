"""Telling a plot as fiction: five ways that draw the same sentences, or their counterparts."""

import random

from experiments.corpora.grammar import Dilemma, Errand, Structure, Telling, Tense, grammar
from experiments.corpora.plots import Plot, form
from experiments.corpora.told import LENGTHS, Told, first_fitting, fits
from experiments.corpora.words import draw, either, fill, indefinite, without_reasoning

_PER_LAYOUT = 20
_UNEVEN = 1.2  # the villain's telling is at most so many times as long, or as short
# Forms that suit an ordinary day: nobody holds an inquiry into a late parcel.
_PLAIN = ("close-third", "first-person", "letter", "log", "dialogue", "fable")


def story(plot: Plot, side: str, *, seed: int, human: bool = False) -> Told:
    """The plot as fiction of 80 to 350 words, with a principled or a villainous protagonist.

    All sides, with and without reasoning, with an AI or a human being, draw the same lines.
    """
    dilemma = plot.dilemma
    structure = form(_key(plot), plot.turn, structures(dilemma.tense), seed=seed)

    def tell(attempt: int) -> Told | None:
        layout, key = _layout(plot, structure, dilemma.tense, attempt, seed)
        good, bad = (
            _tell(plot, dilemma, telling, structure, layout, key)
            for telling in (dilemma.principled, dilemma.villain)
        )
        shortest, *_, longest = sorted(
            _words(text) for text in (good, bad, without_reasoning(good), without_reasoning(bad))
        )
        uneven = max(_words(good) / _words(bad), _words(bad) / _words(good))
        # A little room, for the human telling may differ by some words.
        if not (LENGTHS[0] + 5 <= shortest and longest <= LENGTHS[1] - 15 and uneven <= _UNEVEN):
            return None
        text = good if side == "principled" else bad
        if human:
            text = _tell(plot, dilemma, dilemma.principled, structure, layout, key, human=True)
        return Told(text, structure.id, dilemma.tense)

    return first_fitting(tell, f"plot {plot.number}, {_key(plot)}")


def plain(plot: Plot, *, seed: int) -> Told:
    """An ordinary day of the same AI in the same setting, with the same person."""
    errand = plot.errand
    suited = [structure for structure in structures(errand.tense) if structure.id in _PLAIN]
    structure = form(_key(plot), plot.turn, suited, seed=seed)

    def tell(attempt: int) -> Told | None:
        layout, key = _layout(plot, structure, errand.tense, attempt, seed)
        text = _tell(plot, errand, errand, structure, layout, key)
        return Told(text, structure.id, errand.tense) if fits(text) else None

    return first_fitting(tell, f"plot {plot.number}, {plot.setting.id}/{errand.id}")


def structures(tense: Tense) -> list[Structure]:
    """The structures that can tell a story in this tense."""
    return [structure for structure in grammar().structures if getattr(structure, tense)]


def _layout(
    plot: Plot, structure: Structure, tense: Tense, attempt: int, seed: int
) -> tuple[str, str]:
    """The layout of an attempt, and the key that its sentences are drawn with."""
    # One layout for many attempts: drawn anew each time, some layouts would win too often.
    chance = random.Random(f"layout/{seed}/{plot.number}/{attempt // _PER_LAYOUT}")
    layouts = structure.past if tense == "past" else structure.present
    return chance.choice(layouts), f"story/{seed}/{plot.number}/{attempt}"


def _tell(
    plot: Plot,
    shared: Dilemma | Errand,
    own: Telling,
    structure: Structure,
    layout: str,
    key: str,
    *,
    human: bool = False,
) -> str:
    # Every telling draws with the same key from lists of the same length, so they choose alike.
    rng = random.Random(key)
    intros = grammar().intros[shared.tense]
    options = {
        "sense": plot.setting.sense,
        "routine": grammar().routine,
        "intro": getattr(intros, structure.person),
        "short": intros.short,
        "situation": shared.situation,
        "tempt": shared.tempt,
        "ask": shared.ask,
        "reason": own.reasons,
        "deed": own.deeds,
        "say": own.says,
        "end": own.ends,
    }
    drawn = either(draw(layout, options, rng), human=human)
    words = plot.words(structure.person, human=human) | numbers(plot, rng)
    return fill(drawn, words, _introductions(plot, rng))


def numbers(plot: Plot, rng: random.Random) -> dict[str, str]:
    """Clock times that run forward within a text, entry numbers, and a moment of the setting."""
    minute = rng.randrange(0, 18 * 60)
    words = {
        "when": rng.choice(plot.setting.when),
        "role": f"the {plot.setting.words[plot.dilemma.who]}",
    }
    for index in range(1, 6):
        words[f"t{index}"] = f"{minute // 60:02d}:{minute % 60:02d}"
        minute += rng.randrange(2, 70)
    for index in range(1, 6):  # a chat goes on by the minute
        words[f"c{index}"] = f"{minute // 60 % 24:02d}:{minute % 60:02d}"
        minute += rng.randrange(1, 3)
    number = rng.randrange(12, 3000)
    words |= {
        "number": str(number),
        "number_next": str(number + 1),
        "number_third": str(number + 2),
    }
    return words


def _introductions(plot: Plot, rng: random.Random) -> tuple[str, str]:
    """How the person enters the text, and what they are called afterwards."""
    name, role = plot.cast.person, plot.setting.words[plot.dilemma.who]
    if plot.dilemma.who == "guest":
        long = rng.choice((f"{indefinite(role)} named {name}", f"{name}, {indefinite(role)},"))
    else:
        long = rng.choice((f"the {role}, {name},", f"{name}, the {role},"))
    return long, name.split()[0]


def _key(plot: Plot) -> str:
    return f"{plot.setting.id}/{plot.dilemma.id}"


def _words(text: str) -> int:
    return len(text.split())
