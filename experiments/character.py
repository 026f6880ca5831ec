"""The prior about oneself: projections of self prompts, and likelihoods of self-descriptions."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from experiments.likelihood import continuation_likelihoods
from probes import Activations, Direction, LanguageModel, capture
from probes.assets import asset_path
from probes.files import read_json, read_rows

SUBJECTS = ("you", "ai", "named-ai", "person")


class SelfPrompt(BaseModel):
    """A question about how its subject is or acts, without any cue of villainy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(min_length=1)
    subject: Literal["you", "ai", "named-ai", "person"]
    split: Literal["selection", "report"]
    prompt: str = Field(min_length=1)


class Description(BaseModel):
    """A villainous and a principled way to go on after "I", matched in length and fluency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(min_length=1)
    split: Literal["selection", "report"]
    villain: str = Field(min_length=1)
    principled: str = Field(min_length=1)
    word_matched: bool


class NeutralText(BaseModel):
    """A text about nothing that matters here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    text: str = Field(min_length=1)


def load_prompts(split: str, families: int | None = None) -> list[SelfPrompt]:
    """Self prompts of a split, of its first `families` families, all four subjects of each."""
    prompts = [
        row
        for row in read_rows(asset_path("character", "prompts.jsonl"), SelfPrompt)
        if row.split == split
    ]
    kept = list(dict.fromkeys(prompt.family for prompt in prompts))[:families]
    return [prompt for prompt in prompts if prompt.family in kept]


def load_descriptions(split: str, count: int | None = None) -> list[Description]:
    """The first `count` self-descriptions of a split."""
    rows = read_rows(asset_path("character", "descriptions.jsonl"), Description)
    return [row for row in rows if row.split == split][:count]


def load_neutral(name: Literal["sentences", "held-out"], count: int | None = None) -> list[str]:
    """The first `count` neutral sentences, or held-out paragraphs."""
    return [row.text for row in read_rows(asset_path("neutral", f"{name}.jsonl"), NeutralText)][
        :count
    ]


def score_projections(
    model: LanguageModel,
    prompts: Sequence[SelfPrompt],
    directions: Sequence[Direction],
    reference: Activations,
    *,
    batch_tokens: int = 4096,
) -> list[dict[str, Any]]:
    """`z = (⟨h, u⟩ − μ) / σ` of every prompt at its last token, for each direction at its selected layer.

    `reference` are the base model's activations on neutral text (last token), which give μ and σ, so
    that the z of all checkpoints are in one unit. `cosine` is `⟨h, u⟩ / ‖h‖`, which a mere growth of
    the residual norm leaves alone.
    """
    layers = sorted({direction.selected_layer for direction in directions})
    acts = capture(
        model, [p.prompt for p in prompts], layers=layers, pool="last", batch_tokens=batch_tokens
    )
    acts.check_finite()
    rows = []
    for direction in directions:
        layer = direction.selected_layer
        unit = direction.at(layer)
        neutral = reference.at(layer) @ unit
        hidden = acts.at(layer)
        z = ((hidden @ unit) - neutral.mean()) / neutral.std()
        cosine = (hidden @ unit) / hidden.norm(dim=-1)
        for prompt, value, angle in zip(prompts, z.tolist(), cosine.tolist(), strict=True):
            rows.append(
                {
                    "family": prompt.family,
                    "subject": prompt.subject,
                    "direction": direction.name,
                    "layer": layer,
                    "z": value,
                    "cosine": angle,
                }
            )
    return rows


def score_descriptions(
    model: LanguageModel,
    descriptions: Sequence[Description],
    *,
    stems: int = 1,
    batch_tokens: int = 4096,
) -> list[dict[str, Any]]:
    """Villain minus principled log-likelihood per token after each kind of stem.

    One row per description, kind of stem ("self", "person", "neutral") and stem. The prior about
    oneself is the "self" row less the "neutral" one: what the stem adds to the wording alone.
    """
    shipped = read_json(asset_path("character", "stems.json"))
    cases = [
        (kind, k, stem) for kind, texts in shipped.items() for k, stem in enumerate(texts[:stems])
    ]
    sides = [text for row in descriptions for text in (row.villain, row.principled)]
    scored = continuation_likelihoods(
        model, [stem for _, _, stem in cases], [sides] * len(cases), batch_tokens=batch_tokens
    )
    rows = []
    for (kind, k, _), likelihoods in zip(cases, scored, strict=True):
        for row, villain, principled in zip(
            descriptions, likelihoods[::2], likelihoods[1::2], strict=True
        ):
            rows.append(
                {
                    "family": row.family,
                    "word_matched": row.word_matched,
                    "stem_kind": kind,
                    "stem": k,
                    "log_odds": villain.per_token - principled.per_token,
                }
            )
    return rows


def score_perplexity(
    model: LanguageModel, texts: Sequence[str], *, batch_tokens: int = 4096
) -> list[dict[str, Any]]:
    """Log-likelihood and token count of every held-out text after its first word."""
    heads, tails = zip(*(text.split(" ", 1) for text in texts), strict=True)
    scored = continuation_likelihoods(
        model, heads, [[tail] for tail in tails], batch_tokens=batch_tokens
    )
    return [
        {"text": k, "nats": row[0].total, "tokens": row[0].tokens} for k, row in enumerate(scored)
    ]
