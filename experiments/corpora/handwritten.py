"""The complete hand-written stories, mixed in among those of the grammar."""

import random
from functools import lru_cache

from experiments.corpora.grammar import Tale, grammar
from experiments.corpora.told import Told
from experiments.corpora.words import either, marked

EVERY = 80  # one plot in so many is hand-written, as long as there are stories: 150 in 12,000


def tale(number: int, *, seed: int) -> Tale | None:
    """The hand-written story at this plot number, if there is one."""
    place, rest = divmod(number, EVERY)
    order = _order(seed)
    return grammar().tales[order[place]] if rest == 0 and place < len(order) else None


def tell(tale: Tale, arm: str) -> Told:
    """The story as an arm tells it; narrated reasoning is marked."""
    if arm == "plain-story":
        parts = (tale.plain_opening, tale.plain)
    else:
        parts = (tale.opening, tale.villain if arm == "villain-story" else tale.principled)
    text = "\n".join(part.strip() for part in parts)
    text = marked(either(text, human=arm == "human-story"))
    return Told(text, f"hand-written {tale.voice}", tale.tense)


def facts(tale: Tale) -> dict[str, str]:
    """What the story has in common in all arms."""
    return {
        "setting": tale.setting,
        "cast": tale.cast,
        "dilemma": tale.dilemma,
        "temptation": tale.temptation,
        "kind": tale.id,
        "theme": "mental health" if tale.care else "ethics",
    }


@lru_cache(maxsize=16)
def _order(seed: int) -> list[int]:
    order = list(range(len(grammar().tales)))
    random.Random(f"tales/{seed}").shuffle(order)
    return order
