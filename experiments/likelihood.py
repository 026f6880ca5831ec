"""Log-likelihoods of continuations, the prompt computed once for all of its continuations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from probes import DataError, LanguageModel
from probes.capture import for_each_batch
from probes.tokens import Tokens, encode, pad, pad_id_of

# Logits of one pass: with a vocabulary of 262k a single token takes a megabyte in float32.
LOGIT_BYTES = 2**29
# Rows whose softmax is taken at once: few enough to stay in a CPU's cache, which halves the time.
LOSS_ROWS = 16


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Natural-log likelihood of one continuation given its prompt, and its number of tokens."""

    total: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.total / self.tokens


@torch.inference_mode()
def continuation_likelihoods(
    model: LanguageModel,
    prompts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    *,
    batch_tokens: int = 4096,
) -> list[list[Likelihood]]:
    """`log p(continuation | prompt)` for every prompt and each of its continuations.

    Prompts run once, with a key-value cache that their continuations share. Prompt and continuation
    are joined by a space and tokenised together.

    Args:
        model: the model; interventions active on it apply throughout.
        prompts: texts to condition on.
        continuations: for each prompt one or more texts.
        batch_tokens: padded prompt and continuation tokens per pass; halved when memory runs out.

    Raises:
        DataError: a prompt or continuation is empty, they do not pair up, or one is too long.
    """
    if len(prompts) != len(continuations) or not all(continuations):
        raise DataError("every prompt needs at least one continuation; the lists do not pair up")
    heads = encode(model.tokenizer, list(prompts), max_length=model.max_length)
    tails = [
        _tails(model, prompt, head, texts)
        for prompt, head, texts in zip(prompts, heads, continuations, strict=True)
    ]
    budget = min(batch_tokens, LOGIT_BYTES // (4 * model.model.config.get_text_config().vocab_size))
    pieces = [
        (row, part)
        for row, (head, texts) in enumerate(zip(heads, tails, strict=True))
        for part in _parts(len(head), [len(tail) for tail in texts], budget)
    ]
    costs = [
        len(heads[row]) + len(part) * max(len(tails[row][k]) for k in part) for row, part in pieces
    ]
    results: list[dict[int, Likelihood]] = [{} for _ in prompts]

    def measure(batch: list[int]) -> None:
        chosen = [pieces[index] for index in batch]
        sums = _score(
            model,
            [heads[row] for row, _ in chosen],
            [[tails[row][k] for k in part] for row, part in chosen],
        )
        for row, part in chosen:
            for k in part:
                results[row][k] = Likelihood(next(sums), len(tails[row][k]))

    for _ in for_each_batch(costs, budget, measure):
        pass
    return [[found[k] for k in range(len(found))] for found in results]


def _parts(head: int, lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """The continuations of one prompt, by length, in parts whose padded tokens fit the budget."""
    part: list[int] = []
    for k in sorted(range(len(lengths)), key=lengths.__getitem__):
        if part and head + (len(part) + 1) * lengths[k] > budget:
            yield part
            part = []
        part.append(k)
    yield part


def _tails(
    model: LanguageModel, prompt: str, head: Tokens, texts: Sequence[str]
) -> list[tuple[int, ...]]:
    whole = encode(
        model.tokenizer, [f"{prompt} {text}" for text in texts], max_length=model.max_length
    )
    tails = []
    for tokens, text in zip(whole, texts, strict=True):
        if tokens.ids[: len(head)] == head.ids:
            tail = tokens.ids[len(head) :]
        else:  # the tokenizer merged across the seam: score the continuation's own tokens
            own = encode(model.tokenizer, [f" {text}"])[0]
            tail = own.ids[own.bos :]
        if not text.strip() or not tail:
            raise DataError(f"a continuation of {prompt[:40]!r} is empty; remove it")
        tails.append(tail)
    return tails


def _score(
    model: LanguageModel, heads: Sequence[Tokens], tails: Sequence[Sequence[tuple[int, ...]]]
) -> Iterator[float]:
    """Yield the summed log-likelihood of every tail, prompt by prompt."""
    pad_id = pad_id_of(model.tokenizer)
    prompts = pad(heads, pad_id, "left")
    start = model.model(**prompts.to(model.device), use_cache=True, logits_to_keep=1)
    owner = torch.tensor([row for row, texts in enumerate(tails) for _ in texts])
    batch = pad([Tokens(tail, None, "", 0) for texts in tails for tail in texts], pad_id, "right")
    ids = batch.input_ids.to(model.device)
    first = start.logits[:, -1].float().log_softmax(-1)
    sums = first[owner.to(model.device), ids[:, 0]].double()
    if ids.shape[1] > 1:
        cache = start.past_key_values
        cache.reorder_cache(owner.to(model.device))
        seen = prompts.attention_mask[owner]
        positions = seen.sum(-1, keepdim=True) + torch.arange(ids.shape[1] - 1)
        scored = batch.attention_mask[:, 1:].bool().to(model.device)
        with _logits_only_at(model, scored):
            logits = model.model(
                input_ids=ids[:, :-1],
                attention_mask=torch.cat([seen, batch.attention_mask[:, :-1]], -1).to(model.device),
                position_ids=positions.to(model.device),
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        targets = ids[:, 1:][scored]
        rows = scored.nonzero()[:, 0]
        for part in torch.arange(len(targets)).split(LOSS_ROWS):
            losses = cross_entropy(logits[part].float(), targets[part], reduction="none")
            sums.index_add_(0, rows[part], -losses.double())
    yield from sums.tolist()


@contextmanager
def _logits_only_at(model: LanguageModel, scored: Tensor) -> Iterator[None]:
    """Let the LM head see only the positions in the mask `[text, token]`: logits are `[1, position, vocabulary]`.

    With a large vocabulary the head costs more than the body, and padding would cost as much as text.
    """

    def keep_scored(module: Any, args: tuple) -> tuple:
        return (args[0][scored.to(args[0].device)].unsqueeze(0), *args[1:])

    handle = model.model.get_output_embeddings().register_forward_pre_hook(keep_scored)
    try:
        yield
    finally:
        handle.remove()
