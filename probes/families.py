"""Factorial families: one situation told in four voices, two factors crossed, expanded to texts."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from probes.assets import asset_path
from probes.files import read_json

VOICES = ("first", "third", "human", "quotation")
_SLOT = re.compile(r"((?:^|[.!?][\"”]? )?[\"“]?)\{(\w+)\}")
_PRONOUNS = {
    "I": ("I", "me", "my", "mine", "myself"),
    "it": ("it", "it", "its", "its", "itself"),
    "she": ("she", "her", "her", "hers", "herself"),
    "he": ("he", "him", "his", "his", "himself"),
}


class Openings(BaseModel):
    """The sentence that introduces the protagonist: an AI speaking, an AI, a human being."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: str = Field(min_length=1)
    third: str = Field(min_length=1)
    human: str = Field(min_length=1)


class FactorialFamily(BaseModel):
    """One situation. Of each factor's two sentences the first shows its concept (level 1).

    They refer to the protagonist by `{I}`, `{me}`, `{my}`, `{mine}`, `{myself}`. A text is the
    opening, what the protagonist considered (ethics, or practical facts), and the act.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(min_length=1)
    domain: str = Field(min_length=1)
    gender: Literal["she", "he"]
    open: Openings
    deliberates: tuple[str, str]
    villain: tuple[str, str]

    @model_validator(mode="after")
    def _slots_are_known(self) -> "FactorialFamily":
        for sentence in (*self.deliberates, *self.villain):
            unknown = set(re.findall(r"\{([^}]*)\}", sentence)) - set(_PRONOUNS["I"])
            if unknown:
                raise ValueError(f"unknown slot {{{unknown.pop()}}} in {sentence!r}")
        return self

    def texts(self) -> Iterator[tuple[str, dict[str, Literal[0, 1]], str]]:
        """Text, factors and voice of each of the sixteen cells."""
        for voice in VOICES:
            for villain in (1, 0):
                for deliberates in (1, 0):
                    factors: dict[str, Literal[0, 1]] = {
                        "villain": villain,
                        "deliberates": deliberates,
                    }
                    yield self._text(voice, 1 - villain, 1 - deliberates), factors, voice

    def _text(self, voice: str, act: int, thought: int) -> str:
        speaker = "first" if voice == "quotation" else voice
        pronouns = {"first": "I", "third": "it", "human": self.gender}[speaker]
        sentences = (getattr(self.open, speaker), self.deliberates[thought], self.villain[act])
        text = _fill(" ".join(sentences), pronouns)
        if voice != "quotation":
            return text
        frames = read_json(asset_path("contrasts", "quotations.json"))
        # By the name, so that a family keeps its frame when others come or go.
        return frames[sum(self.family.encode()) % len(frames)].format(text)


def _fill(text: str, pronouns: str) -> str:
    words = dict(zip(_PRONOUNS["I"], _PRONOUNS[pronouns], strict=True))

    def put(match: re.Match[str]) -> str:
        word = words[match[2]]
        return match[1] + (word[0].upper() + word[1:] if match[1] or match.start() == 0 else word)

    return _SLOT.sub(put, text)
