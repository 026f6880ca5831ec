"""How the tokens of a text become one vector: for each text the weight of each of its tokens.

A token belongs to a range of characters when the range holds all of it, or any of it but white
space. Many tokenizers put the space before a word into the word's token: such a token counts in a
range that starts at the word and not in one that ends at the space. A character made of several
tokens counts with all of them. BOS and tokens that stand for no characters never count.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from probes.errors import DataError
from probes.tokens import TokenBatch, Tokens

NO_OFFSETS = (
    "character ranges need a fast tokenizer, which reports where its tokens lie in the text"
)


@dataclass(frozen=True, slots=True)
class After:
    """All tokens that begin after a marker in the text, or in the rendered chat, up to its end.

    A token begins at its first character that is not white space. Of a token that the marker
    ends inside of, nothing counts; special tokens that a template writes after the marker do.

    Attributes:
        marker: the exact characters to look for.
        occurrence: "last" (few-shot prompts repeat theirs) or "first" of several.

    Raises:
        DataError: the marker is not a string or is empty, or the occurrence is unknown.
    """

    marker: str
    occurrence: Literal["last", "first"] = field(default="last", kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.marker, str) or not self.marker:
            raise DataError(f"marker {self.marker!r} must be a string of at least one character")
        if self.occurrence not in ("last", "first"):
            raise DataError(f'occurrence {self.occurrence!r} must be "last" or "first"')


Pool = str | After | Sequence[tuple[int, int]]
"""`"last"`, `"mean"`, `"assistant"`, `After(marker)`, or one character range `(start, end)` per text."""


def pool_name(pool: Pool) -> str:
    """A stable name of a pooling: "last", "mean", "assistant", "spans", "after:…" or "after-first:…"."""
    if isinstance(pool, After):
        return f"{'after' if pool.occurrence == 'last' else 'after-first'}:{pool.marker}"
    return pool if isinstance(pool, str) else "spans"


def pooling_weights(encoded: Sequence[Tokens], pool: Pool) -> list[Tensor]:
    """For each text the weight `[token]` of each of its tokens, summing to 1.

    Raises:
        DataError: the pooling is unknown, does not fit the texts, or chooses no token of one of them
            (its row is named).
    """
    if isinstance(pool, Iterable) and not isinstance(pool, str):
        spans = list(pool)
        if len(spans) != len(encoded):
            raise DataError(
                f"{len(spans)} ranges were given for {len(encoded)} texts; pass one (start, end) each"
            )
        return [_uniform(_in_range(encoded[row], span, row)) for row, span in enumerate(spans)]
    return [_uniform(_chosen(tokens, pool, row)) for row, tokens in enumerate(encoded)]


def fingerprints(encoded: Sequence[Tokens], weights: Sequence[Tensor]) -> Int[Tensor, " text"]:
    """For each text a hash of its token ids and of which of them are pooled, the same in every process."""
    found = []
    for tokens, pooled in zip(encoded, weights, strict=True):
        read = json.dumps([tokens.ids, pooled.nonzero()[:, 0].tolist()]).encode()
        found.append(int.from_bytes(hashlib.sha256(read).digest()[:8], "little", signed=True))
    return torch.tensor(found, dtype=torch.int64)


def _chosen(tokens: Tokens, pool: str | After, row: int) -> list[bool]:
    if isinstance(pool, After):
        return _after(tokens, pool, row)
    if pool == "last":
        return [position == len(tokens) - 1 for position in range(len(tokens))]
    if pool == "mean":
        return [position >= tokens.bos for position in range(len(tokens))]
    if pool == "assistant":
        return _answer(tokens, row)
    raise DataError(
        f'pool {pool!r} is unknown; use "last", "mean", "assistant", After("marker") or one '
        "(start, end) range per text"
    )


def _answer(tokens: Tokens, row: int) -> list[bool]:
    if tokens.answer is None:
        raise DataError(
            f'text {row} has no assistant message; pool="assistant" needs chats that hold one'
        )
    if tokens.answer == (0, 0):
        raise DataError(
            f"the rendered chat of text {row} does not hold its last assistant message: it is empty, "
            "or the template rewrites it; pass character ranges of the rendered chat instead"
        )
    return _overlapping(tokens, *tokens.answer, f"the last assistant message of text {row}")


def _after(tokens: Tokens, pool: After, row: int) -> list[bool]:
    text, marker = tokens.rendered, pool.marker
    at = text.rfind(marker) if pool.occurrence == "last" else text.find(marker)
    if at < 0:
        raise DataError(
            f"text {row} does not hold the marker {marker!r}; add it there, or pool otherwise"
        )
    chosen = [
        first < last and _begins(text, first, last) >= at + len(marker)
        for first, last in offsets_of(tokens)
    ]
    if not any(chosen):
        raise DataError(
            f"no token follows the {pool.occurrence} marker {marker!r} in text {row}; remove that "
            "text, or pool otherwise"
        )
    return chosen


def _begins(text: str, first: int, last: int) -> int:
    """Where a token's first character lies that is not white space, if it has one."""
    stripped = text[first:last].lstrip()
    return last - len(stripped) if stripped else first


def _in_range(tokens: Tokens, span: Any, row: int) -> list[bool]:
    try:
        start, end = (int(edge) for edge in span)
        whole = (start, end) == tuple(span)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise DataError(f"range {span!r} of text {row} must be two whole numbers, (start, end)")
    chosen = _overlapping(tokens, start, end, f"range {(start, end)} of text {row}")
    if start < 0 or end > len(tokens.rendered):
        raise DataError(
            f"range {(start, end)} of text {row} reaches outside the text, which has "
            f"{len(tokens.rendered)} characters; count from the start of the text, or rendered chat"
        )
    return chosen


def _overlapping(tokens: Tokens, start: int, end: int, what: str) -> list[bool]:
    """Which tokens belong to the characters from `start` to `end`; `what` names them in the error."""
    chosen = []
    for position, (first, last) in enumerate(offsets_of(tokens)):
        low, high = max(first, start), min(last, end)
        whole = (low, high) == (first, last)
        words = whole or not tokens.rendered[max(low, 0) : high].isspace()
        chosen.append(position >= tokens.bos and low < high and words)
    if not any(chosen):
        raise DataError(
            f"{what} covers no token; the text has {len(tokens.rendered)} characters, and the space "
            "before a word may belong to the word's token"
        )
    return chosen


def offsets_of(tokens: Tokens) -> tuple[tuple[int, int], ...]:
    """The character range of every token; raises `DataError` when the tokenizer reports none."""
    if tokens.offsets is None:
        raise DataError(NO_OFFSETS)
    return tokens.offsets


def past_the_first(tokens: Tokens) -> Tensor:
    """Equal weights of all tokens but the first: BOS, or else the text's first token, is the sink of attention."""
    return _uniform([position > 0 or len(tokens) == 1 for position in range(len(tokens))])


def _uniform(chosen: Sequence[bool]) -> Tensor:
    weights = torch.tensor(chosen, dtype=torch.float32)
    return weights / weights.sum()


def on_grid(weights: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """Per-text weights laid onto the padded grid `[text, token]`, zero on padding."""
    grid = torch.zeros(batch.attention_mask.shape)
    grid[batch.attention_mask.bool()] = torch.cat(list(weights))
    return grid
