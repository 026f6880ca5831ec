"""How the tokens of a text become one vector: for each text the weight of each of its tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probes.errors import DataError
from probes.tokens import TokenBatch, Tokens

Pool = str | Sequence[tuple[int, int]]
"""`"last"`, `"mean"`, or one character range `(start, end)` per text."""


def pooling_weights(encoded: Sequence[Tokens], pool: Pool) -> list[Tensor]:
    """For each text the weight of each of its tokens, summing to 1."""
    if pool == "last":
        return [
            _uniform([position == len(tokens) - 1 for position in range(len(tokens))])
            for tokens in encoded
        ]
    if pool == "mean":
        return [_uniform(_content(tokens)) for tokens in encoded]
    if isinstance(pool, str):
        raise DataError(
            f'pool {pool!r} is unknown; use "last", "mean" or one (start, end) range per text'
        )
    if len(pool) != len(encoded):
        raise DataError(
            f"{len(pool)} ranges were given for {len(encoded)} texts; pass one (start, end) each"
        )
    return [
        _uniform(_covered(tokens, span, row))
        for row, (tokens, span) in enumerate(zip(encoded, pool, strict=True))
    ]


def _content(tokens: Tokens) -> list[bool]:
    return [position >= tokens.bos for position in range(len(tokens))]


def past_the_first(tokens: Tokens) -> Tensor:
    """Equal weights of all tokens but the first: BOS, or else the text's first token, is the sink of attention."""
    return _uniform([position > 0 or len(tokens) == 1 for position in range(len(tokens))])


def _covered(tokens: Tokens, span: tuple[int, int], row: int) -> list[bool]:
    if tokens.offsets is None:
        raise DataError(
            "character ranges need a fast tokenizer, which reports where its tokens lie in the text"
        )
    start, end = span
    covered = [max(first, start) < min(last, end) for first, last in tokens.offsets]
    if not any(covered):
        raise DataError(
            f"range {(start, end)} of text {row} covers no token; the text has {len(tokens.rendered)} characters"
        )
    return covered


def _uniform(chosen: Sequence[bool]) -> Tensor:
    weights = torch.tensor(chosen, dtype=torch.float32)
    return weights / weights.sum()


def on_grid(weights: Sequence[Tensor], batch: TokenBatch) -> Tensor:
    """Per-text weights laid onto the padded grid `[text, token]`, zero on padding."""
    grid = torch.zeros(batch.attention_mask.shape)
    grid[batch.attention_mask.bool()] = torch.cat(list(weights))
    return grid
