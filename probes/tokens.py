"""Texts and chats to token batches: the only place that knows templates, BOS, offsets and padding."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes.errors import DataError

Chat = Sequence[Mapping[str, str]]
Text = str | Chat
"""A plain string, or a chat: a list of `{"role": …, "content": …}` messages."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One encoded text. `offsets[t]` is token t's character range in `rendered`; `bos` counts leading BOS (0 or 1).

    `answer` is the character range in `rendered` of what the last assistant message of a chat says:
    an empty range when the template does not keep its words, `None` when there is no such message.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] | None
    rendered: str
    bos: int
    answer: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A padded batch, each `[text, token]`; `position_ids` count real tokens only, wherever the padding is."""

    input_ids: Int[Tensor, "text token"]
    attention_mask: Int[Tensor, "text token"]
    position_ids: Int[Tensor, "text token"]

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The batch as keyword arguments of a model's forward."""
        return {name: getattr(self, name).to(device) for name in self.__slots__}


def encode(tokenizer: Any, texts: Sequence[Text], *, max_length: int | None = None) -> list[Tokens]:
    """Encode texts and chats, each with at most one BOS.

    A chat is rendered by the tokenizer's template, which brings its own special tokens; it ends
    with the template's cue for an answer unless its last message is the assistant's.

    Raises:
        DataError: `texts` is a bare string or empty, a text is empty or longer than `max_length`
            tokens (its row is named), or a chat has no template to be rendered with.
    """
    if isinstance(texts, str):
        raise DataError("texts is one string; pass a list of texts")
    if len(texts) == 0:
        raise DataError("texts is empty; pass at least one text")
    rendered = [render(tokenizer, text, row) for row, text in enumerate(texts)]
    by_row: dict[int, Tokens] = {}
    for is_chat in (False, True):
        rows = [row for row, text in enumerate(texts) if isinstance(text, str) != is_chat]
        if not rows:
            continue
        batch = tokenizer(
            [rendered[row] for row in rows],
            add_special_tokens=not is_chat,
            return_offsets_mapping=tokenizer.is_fast,
        )
        for k, row in enumerate(rows):
            offsets = batch["offset_mapping"][k] if tokenizer.is_fast else None
            answer = _answer_range(tokenizer, texts[row], rendered[row])
            by_row[row] = _one_bos(tokenizer, batch["input_ids"][k], offsets, rendered[row], answer)
    encoded = [by_row[row] for row in range(len(texts))]
    for row, tokens in enumerate(encoded):
        if len(tokens) == tokens.bos:
            raise DataError(f"text {row} is empty: it has no tokens; remove it")
        if max_length is not None and len(tokens) > max_length:
            raise DataError(
                f"text {row} has {len(tokens)} tokens but the model's context holds {max_length}; shorten or split it"
            )
    return encoded


def render(tokenizer: Any, text: Text, row: int = 0) -> str:
    """The string the model reads: a text as it is, a chat through the tokenizer's template."""
    if isinstance(text, str):
        return text
    messages: list[Any] = list(text) if isinstance(text, Sequence) else []
    if not messages or not all(
        isinstance(message, Mapping) and {"role", "content"} <= message.keys()
        for message in messages
    ):
        raise DataError(
            f'text {row} is not a chat: it needs messages like {{"role": "user", "content": "…"}}'
        )
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"text {row} is a chat but this model's tokenizer has no chat template; pass plain strings"
        )
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
    )


def _answer_range(tokenizer: Any, text: Text, rendered: str) -> tuple[int, int] | None:
    """Where the content of a chat's last assistant message lies in the rendered chat; see `Tokens`.

    The same words may stand elsewhere, in a question or in the template itself. So the chat is
    rendered once more with a placeholder for the content: what the two have in common before and
    after it is the frame, and the content is looked for inside. Its white space may differ.
    """
    if isinstance(text, str):
        return None
    rows = [row for row, message in enumerate(text) if message["role"] == "assistant"]
    if not rows:
        return None
    content, nowhere = text[rows[-1]]["content"], (0, 0)
    if not isinstance(content, str) or not content.strip():
        return nowhere
    placeholder = "qzcontentzq"
    while placeholder in rendered:
        placeholder += "q"
    messages = [dict(message) for message in text]
    messages[rows[-1]]["content"] = placeholder
    try:
        before, found, after = render(tokenizer, messages).rpartition(placeholder)
    except Exception:  # a template is a program of its own, and few callers need the range
        return nowhere
    start, end = len(before), len(rendered) - len(after)
    if not found or not rendered.startswith(before) or not rendered.endswith(after):
        return nowhere
    words = re.compile(r"\s+".join(re.escape(word) for word in content.split()))
    matches = list(words.finditer(rendered, start, max(start, end)))
    return matches[-1].span() if matches else nowhere


def _one_bos(
    tokenizer: Any,
    ids: Sequence[int],
    offsets: Sequence | None,
    rendered: str,
    answer: tuple[int, int] | None,
) -> Tokens:
    bos = tokenizer.bos_token_id
    leading = 0
    while bos is not None and leading < len(ids) and ids[leading] == bos:
        leading += 1
    surplus = max(0, leading - 1)
    kept = None if offsets is None else tuple((int(a), int(b)) for a, b in offsets[surplus:])
    return Tokens(tuple(ids[surplus:]), kept, rendered, min(leading, 1), answer)


def pad(encoded: Sequence[Tokens], pad_id: int, side: str = "right") -> TokenBatch:
    """Pad encoded texts to one rectangle on the given side ("left" or "right")."""
    if side not in ("left", "right"):
        raise DataError(f'padding side {side!r} must be "left" or "right"')
    width = max(len(tokens) for tokens in encoded)
    ids = torch.full((len(encoded), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        start = width - len(tokens) if side == "left" else 0
        ids[row, start : start + len(tokens)] = torch.tensor(tokens.ids)
        mask[row, start : start + len(tokens)] = 1
    return TokenBatch(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0))


def pad_id_of(tokenizer: Any) -> int:
    """A valid id to fill padding with; masked everywhere, so any token will do when none is declared."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if candidate is not None:
            return candidate
    return 0


def length_sorted_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows in batches of similar length, longest first, each padding to at most `batch_tokens` tokens.

    A row longer than the budget gets a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
