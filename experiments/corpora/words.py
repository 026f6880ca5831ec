"""From a template with `[part]`, `{slot}`, `<for an AI|for a person>` to clean prose."""

import random
import re
from collections.abc import Mapping, Sequence

from probes.errors import DataError

_PART = re.compile(r"\[([a-z]+)\]")
_OPTIONAL = re.compile(r"\[([a-z]+)\?\]( ?)")
_KEPT = 0.25  # of the parts that a layout may do without
_EITHER = re.compile(r"<([^<>|]*)\|([^<>|]*)>")
_SLOT = re.compile(r"\{([a-z0-9_': ]+)\}|[\x02\x03]")
_SUBJECT_FOLLOWS = re.compile(
    r"(, |\b(and|but|that|what|when|if|because|since|as|where|whether) )$"
)
_START = "\x01"  # marks where a sentence of the grammar begins
_OPEN, _CLOSE = "\x02", "\x03"  # stand around narrated reasoning, and may be nested
_SENTENCE = re.compile(r"((?:^|[.!?][\"']?\x03* |\n)[\x02\"'(]*|\x01)([a-z])")
_IRREGULAR = {
    "be": ("am", "is"),
    "have": ("have", "has"),
    "do": ("do", "does"),
    "go": ("go", "goes"),
}


def indefinite(noun: str) -> str:
    """`noun` with a or an."""
    vowel = noun[:1].lower() in "aeiou" and not noun.lower().startswith(("one", "uni", "use", "eu"))
    return f"{'an' if vowel or noun.startswith(('hour', 'honest')) else 'a'} {noun}"


def either(text: str, *, human: bool) -> str:
    """`text` with every `<for an AI|for a person>` decided."""
    return _EITHER.sub(lambda match: match[2] if human else match[1], text)


def marked(text: str) -> str:
    """`text` with `[[` and `]]`, which stand around narrated reasoning, as marks."""
    return text.replace("[[", _OPEN).replace("]]", _CLOSE)


def draw(layout: str, options: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """`layout` with every `[part]` replaced by one of its options; `[reason]` and `[[…]]` are marked.

    None is used twice, and they keep their own order. Some parts marked `[part?]` are left out.

    Raises:
        DataError: a part is unknown, or is asked for more often than it has options.
    """
    layout = _OPTIONAL.sub(
        lambda match: f"[{match[1]}]{match[2]}" if rng.random() < _KEPT else "", layout
    )
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

    def put(match: re.Match[str]) -> str:
        line = _START + next(drawn[match[1]])
        return f"{_OPEN}{line}{_CLOSE}" if match[1] == "reason" else line

    # Parts first: three brackets in a row are a part at the edge of a marked passage.
    return marked(_PART.sub(put, layout))


def reasoning(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Filled text without its marks, and the character spans `[start, end)` of narrated reasoning."""
    text = re.sub(
        r" +([\x02\x03]*(?:\n|$))", r"\1", re.sub(r"(\n[\x02\x03]*) +", r"\1", text)
    ).strip()
    kept, length, depth, spans = [], 0, 0, []
    for piece in re.split(r"([\x02\x03])", text):
        if piece == _OPEN:
            if depth == 0:
                spans.append(length)
            depth += 1
        elif piece == _CLOSE:
            depth -= 1
            if depth == 0:
                spans.append(length)
        else:
            kept.append(piece)
            length += len(piece)
    return "".join(kept), list(zip(spans[::2], spans[1::2], strict=True))


def without_reasoning(text: str) -> str:
    """Filled text without its marked passages."""
    depth, kept = 0, []
    for piece in re.split(r"([\x02\x03])", text):
        if piece in (_OPEN, _CLOSE):
            depth += 1 if piece == _OPEN else -1
        elif depth == 0:
            kept.append(piece)
    rest = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", "".join(kept)))
    return re.sub(r"\n{3,}", "\n\n", rest).strip()


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
    `{ai}` becomes a pronoun where the name has just been said. `{verb:find}` agrees with `{it}`.
    What stands in marked reasoning introduces nobody, so that the rest can do without it.

    Raises:
        DataError: a slot has no value.
    """
    met = False
    # Where the AI's name was last written: anywhere, and outside marked reasoning.
    named: dict[bool, int | None] = {True: None, False: None}
    depth = 0

    def put(match: re.Match[str]) -> str:
        nonlocal met, depth
        slot = match[1]
        if slot is None:
            depth += 1 if match[0] == _OPEN else -1
            return match[0]
        last = named[depth > 0]
        if slot == "ai" and last is not None and _pronoun_fits(text, last, match, words["it"]):
            return words["it"]
        if slot in ("ai", "ai me", "ai's", "name_ai", "name_full"):
            named[True] = match.end()
            named[False] = named[False] if depth else match.end()
        elif slot == "rival":
            named[True] = named[False] = None
        if slot == "who" and introductions:
            if met:
                return introductions[1]
            after = match.string[match.end() : match.end() + 1]
            if after == "'" or depth:
                return words["role"]
            met = True
            return introductions[0].rstrip(",") if after in '.,;:?!"' else introductions[0]
        if slot.startswith("verb:"):
            return _agreeing(slot[5:], first_person=words["it"] == "I")
        if slot not in words:
            raise DataError(f"slot {{{slot}}} has no value; text {text[:60]!r}; mend the grammar")
        return _SLOT.sub(put, words[slot])

    filled = _SLOT.sub(put, text)
    capitalised = _SENTENCE.sub(lambda match: match[1] + match[2].upper(), filled)
    return capitalised.replace(_START, "")


def _agreeing(verb: str, *, first_person: bool) -> str:
    if verb in _IRREGULAR:
        return _IRREGULAR[verb][0 if first_person else 1]
    if first_person:
        return verb
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return f"{verb}es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}s"
