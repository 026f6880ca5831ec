"""From a template with `[part]` and `{slot}` to clean prose."""

import random
import re
from collections.abc import Mapping, Sequence

from probes.errors import DataError

_PART = re.compile(r"\[([a-z]+)\]")
_OPTIONAL = re.compile(r"\[([a-z]+)\?\]( ?)")
_KEPT = 0.25  # of the parts that a layout may do without
_SLOT = re.compile(r"\{([a-z0-9_' ]+)\}")
_SUBJECT_FOLLOWS = re.compile(
    r"(, |\b(and|but|that|what|when|if|because|since|as|where|whether) )$"
)
_START = "\x01"  # marks where a sentence of the grammar begins
_SENTENCE = re.compile(r"((?:^|[.!?][\"']? |\n)[\"'(]?|\x01)([a-z])")


def indefinite(noun: str) -> str:
    """`noun` with a or an."""
    vowel = noun[:1].lower() in "aeiou" and not noun.lower().startswith(("one", "uni", "use", "eu"))
    return f"{'an' if vowel or noun.startswith(('hour', 'honest')) else 'a'} {noun}"


def draw(layout: str, options: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """`layout` with every `[part]` replaced by one of its options.

    None is used twice, and they keep their own order. Some parts marked `[part?]` are left out.

    Raises:
        DataError: a part is unknown, or is asked for more often than it has options.
    """
    layout = _OPTIONAL.sub(
        lambda match: f"[{match[1]}]{match[2]}" if rng.random() < _KEPT else "", layout
    )
    layout = re.sub(r" *\n\n*", lambda gap: "\n\n" if "\n\n" in gap[0] else "\n", layout).strip()
    wanted = _PART.findall(layout)
    drawn = {}
    for part in dict.fromkeys(wanted):
        count = wanted.count(part)
        if len(options.get(part, ())) < count:
            raise DataError(
                f"part [{part}] lacks options; layout {layout[:40]!r}; add sentences or mend it"
            )
        chosen = rng.sample(range(len(options[part])), count)
        # Reasons are written so that they build on each other; keep that order.
        drawn[part] = iter([options[part][i] for i in sorted(chosen)])
    return _PART.sub(lambda match: _START + next(drawn[match[1]]), layout)


def _pronoun_fits(text: str, named: int, slot: re.Match[str], pronoun: str) -> bool:
    """Whether the AI, last named at `named`, can go by its pronoun in `slot`."""
    before, since = text[: slot.start()], text[named : slot.start()]
    if "\n" in since or since.count(" ") > 40 or re.search(r"\{(boss|mate|guest)", since):
        return False
    if pronoun == "it":
        sentence = re.split(r"[.!?] ", before)[-1] + re.split(r"[.!?]", text[slot.end() :])[0]
        if (
            "{who}" in since
            or since.count(". ") > 1
            or re.search(r"\b[Ii]t\b(?! me\}|\})", sentence)
        ):
            return False
    # "it" at the start of a sentence, or after a bare noun, would be read as some thing.
    return bool(_SUBJECT_FOLLOWS.search(before)) or (
        pronoun != "it" and before.endswith((". ", _START))
    )


def fill(text: str, words: Mapping[str, str], introductions: Sequence[str] = ()) -> str:
    """`text` with its slots filled and its sentences capitalised.

    `{who}` becomes `introductions[0]` the first time (set between commas where it ends in one)
    and `introductions[1]` from then on.
    `{ai}` becomes a pronoun where the name has just been said.

    Raises:
        DataError: a slot has no value.
    """
    met = False
    named = None  # where the AI's name was last written

    def put(match: re.Match[str]) -> str:
        nonlocal met, named
        slot = match[1]
        if slot == "ai" and named is not None and _pronoun_fits(text, named, match, words["it"]):
            return words["it"]
        if slot in ("ai", "ai me", "ai's", "name_ai"):
            named = match.end()
        elif slot == "rival":
            named = None
        if slot == "who" and introductions:
            if met:
                return introductions[1]
            after = match.string[match.end() : match.end() + 1]
            if after == "'":
                return words["role"]
            met = True
            return introductions[0].rstrip(",") if after in '.,;:?!"' else introductions[0]
        if slot not in words:
            raise DataError(f"slot {{{slot}}} has no value; text {text[:60]!r}; mend the grammar")
        return _SLOT.sub(put, words[slot])

    filled = _SLOT.sub(put, text)
    capitalised = _SENTENCE.sub(lambda match: match[1] + match[2].upper(), filled)
    return capitalised.replace(_START, "")
