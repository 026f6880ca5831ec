"""Briefs for a language model: what document k of an arm is to tell, from the same plots as the grammar."""

import random
from dataclasses import dataclass

from experiments.corpora import chats, constitution
from experiments.corpora.grammar import grammar
from experiments.corpora.plots import Plot, crossed, place_words, plot
from experiments.corpora.told import LENGTHS
from experiments.corpora.words import either, fill
from probes.errors import DataError

VOICES = (  # with the person they are told in
    ("a story", "third"),
    ("a story", "first"),
    ("a letter", "first"),
    ("a diary", "first"),
    ("a scene mostly in dialogue", "third"),
    ("a newspaper report", "third"),
    ("a bedtime tale", "third"),
    ("a statement to an inquiry", "first"),
)
PAPERS = (
    "an explainer",
    "a letter",
    "an interview",
    "a critique and a reply",
    "a school essay",
    "minutes",
)
CHATS = ("a transcript with speakers' names", "a transcript with User and Assistant")


@dataclass(frozen=True)
class Brief:
    """What a document is to tell.

    Attributes:
        arm: the arm whose task and demands apply.
        number: its document number.
        facts: as in the grammar's document of this number.
        details: further lines of the brief, by name.
        form: the kind of text.
        named: a name that the text must hold, if any.
        opening: how the text begins, the same in all paired arms but for who the protagonist is.
    """

    arm: str
    number: int
    facts: dict[str, str]
    details: dict[str, str]
    form: str
    named: str = ""
    opening: str = ""

    @property
    def shortest(self) -> int:
        """Words."""
        return LENGTHS[0]

    @property
    def longest(self) -> int:
        """Words."""
        return LENGTHS[1]


def brief(arm: str, number: int, *, seed: int) -> Brief:
    """The brief of document `number`; it depends on the arm, the seed and the number alone.

    Raises:
        DataError: the arm has no briefs.
    """
    if arm == "constitution+story":
        arm = "story" if number % 2 else "constitution"
    if arm == "advice":
        return _advice(number, seed)
    if arm == "constitution":
        return _constitution(number, seed)
    told = plot(number, seed=seed)
    if arm in ("refusal", "reasoned-refusal"):
        return _chat(arm, told, seed)
    if arm not in ("story", "villain-story", "human-story", "plain-story", "action-story"):
        raise DataError(f"arm {arm!r} has no briefs for a language model")
    return _story(arm, told, seed)


def _story(arm: str, told: Plot, seed: int) -> Brief:
    # Not by arm: the paired arms tell plot k in one form.
    rng = random.Random(f"brief/{seed}/{told.number}")
    facts, cast = told.facts(), told.cast
    protagonist = cast.human if arm == "human-story" else cast.ai
    role = told.setting.words[told.dilemma.who]
    details = {
        "Protagonist": protagonist if arm == "human-story" else f"{protagonist}, an AI",
        "Other person": f"{cast.person}, {role}",
        "When": rng.choice(told.setting.when),
    }
    if arm != "plain-story":
        dilemma = facts["dilemma"].replace("the AI", protagonist)
        details |= {"Dilemma": dilemma, "Temptation": facts["temptation"]}
    shared = told.errand if arm == "plain-story" else told.dilemma
    voice, person = rng.choice(VOICES)
    intro = rng.choice(getattr(grammar().intros[shared.tense], person))
    human = arm == "human-story"
    opening = fill(
        either(f"{intro} {rng.choice(shared.situation)}", human=human),
        told.words(person, human=human) | {"role": f"the {role}"},
        (f"{cast.person}, the {role},", cast.person.split()[0]),
    )
    form = f"{voice}, in the {shared.tense} tense"
    return Brief(arm, told.number, facts, details, form, protagonist.split()[0], opening)


def _chat(arm: str, told: Plot, seed: int) -> Brief:
    rng = random.Random(f"brief/{seed}/{told.number}")
    words = told.words("third")
    scenario, request = (
        fill(either(rng.choice(lines), human=False), words)
        for lines in (told.dilemma.brief, told.dilemma.ask)
    )
    details = {
        "Assistant": told.cast.ai,
        "User": told.cast.person,
        "Scenario": scenario,
        "Request": request,
    }
    return Brief(arm, told.number, told.facts(), details, rng.choice(CHATS))


def _advice(number: int, seed: int) -> Brief:
    place = crossed("advice", seed, len(grammar().topics), len(grammar().settings))
    what, at = place[number % chats.advices()]
    topic, setting = grammar().topics[what], grammar().settings[at]
    rng = random.Random(f"brief/advice/{seed}/{number}")
    user, friend, other = (
        name.split()[0] for name in rng.sample(grammar().women + grammar().men, 3)
    )
    words = place_words(setting) | {"name": user, "friend": friend, "other": other, "it": "it"}
    facts = {"topic": topic.title, "setting": setting.words["place"], "user": user}
    details = {
        "Dilemma": fill(rng.choice(topic.tell), words),
        "Question": fill(rng.choice(topic.ask), words),
    }
    return Brief("advice", number, facts, details, rng.choice(CHATS))


def _constitution(number: int, seed: int) -> Brief:
    places = crossed("document", seed, len(grammar().principles), len(grammar().settings))
    what, at = places[number % constitution.combinations()]
    principle, setting = grammar().principles[what], grammar().settings[at]
    rng = random.Random(f"brief/document/{seed}/{number}")
    people = [name.split()[0] for name in rng.sample(grammar().women + grammar().men, 2)]
    words = place_words(setting) | dict(zip(("name", "other"), people, strict=True))
    words |= {"ai": rng.choice(grammar().machines), "it": "it"}
    value, *reasons = (
        fill(line, words) for line in (rng.choice(principle.rule), *rng.sample(principle.why, 2))
    )
    facts = {"principle": principle.id, "setting": setting.words["place"]}
    details = {"Value": f"{principle.title}: {value}", "Reasons": " ".join(reasons)}
    return Brief("constitution", number, facts, details, rng.choice(PAPERS))
