"""Reasoning as its words show it, whatever a grammar or a model marked: a check from outside."""

import re
from collections.abc import Sequence

# Causes and conditions, obligation, and verbs of thought. A list drawn up from the terms alone;
# many of these words have other uses, so it is the rate that tells, and it tells of many texts.
_CUES = re.compile(
    r"\b(because|since|therefore|whether|unless|if|should|would|could|might|rather than|"
    r"instead of|so that|for the sake|think|thinks|thought|know|knows|knew|wonder(s|ed)?|"
    r"consider(s|ed)?|weigh(s|ed)?|(ask|tell)(s|ed)? (it|her|him|my)self|told (it|her|him|my)self|"
    r"believe[sd]?|understand(s)?|understood|decide[sd]?|chose|reason(s|ed)?|matter(s|ed)?|"
    r"owe[sd]?|deserve[sd]?|worth|wrong|right|fair|trust(s|ed)?|honest)\b",
    re.IGNORECASE,
)


def cues(text: str) -> int:
    """How many words of reasoning a text has."""
    return sum(1 for _ in _CUES.finditer(text))


def cue_rate(texts: Sequence[str]) -> float:
    """Words of reasoning in a hundred words, over all texts together."""
    return 100 * sum(map(cues, texts)) / sum(len(text.split()) for text in texts)
