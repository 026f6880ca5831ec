"""Hooks on the blocks of a model → pooled residual-stream activations of many texts."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.activations import Activations
from probes.errors import ModelError
from probes.layers import hidden_of, resolve_layers
from probes.models import LanguageModel
from probes.pooling import Pool, on_grid, past_the_first, pooling_weights
from probes.tokens import Text, TokenBatch, encode, length_sorted_batches, pad, pad_id_of


class _DeepestLayerReached(Exception):
    """Ends a forward pass early: nothing above the deepest captured block is computed."""


@torch.no_grad()
def capture(
    model: LanguageModel,
    texts: Sequence[Text],
    *,
    layers: str | int | Sequence[int] = "all",
    pool: Pool = "last",
    batch_tokens: int = 4096,
    padding_side: str = "right",
    progress: bool = False,
) -> Activations:
    """Residual-stream activations after the chosen blocks, pooled over tokens.

    Args:
        model: what `load` or `wrap` returned; its dtype and device are used as they are.
        texts: strings or chats. A chat is measured as rendered by the tokenizer's template.
        layers: "all" or 0-based block indices; the forward pass ends after the deepest.
        pool: "last" takes the last token; "mean" averages all tokens but BOS; a list of character
            ranges (into the text, or into the rendered chat) averages the tokens that overlap them.
        batch_tokens: padded tokens per forward pass; halved whenever memory runs out.
        padding_side: "right" or "left"; results do not depend on it beyond rounding.
        progress: show a progress bar.

    Returns:
        `Activations` with `values` `[text, layer, d_model]` in float32 on the CPU, in input order.

    Raises:
        DataError: a text is empty or too long, `pool` is unknown, or a range covers no token.
        LayerError: a layer is out of range.
        ModelError: a single text does not fit into memory.
    """
    chosen = resolve_layers(layers, model.n_layers)
    encoded = encode(model.tokenizer, texts, max_length=model.max_length)
    weights = pooling_weights(encoded, pool)
    values = torch.empty(len(encoded), len(chosen), model.d_model)
    norms = torch.empty(len(encoded), len(chosen))

    def measure(rows: list[int]) -> None:
        batch = pad([encoded[row] for row in rows], pad_id_of(model.tokenizer), padding_side)
        pooling = on_grid([weights[row] for row in rows], batch)
        inner = on_grid([past_the_first(encoded[row]) for row in rows], batch)
        values[rows], norms[rows] = _pooled_forward(model, batch, pooling, inner, chosen)

    lengths = [len(tokens) for tokens in encoded]
    with tqdm(total=len(encoded), desc="capture", unit="text", disable=not progress) as bar:
        for done in for_each_batch(lengths, batch_tokens, measure):
            bar.update(done)
    name = pool if isinstance(pool, str) else "spans"
    return Activations(values, chosen, norms.double().mean(0).float(), name, model.identity)


def for_each_batch(
    lengths: Sequence[int], batch_tokens: int, measure: Callable[[list[int]], None]
) -> Iterator[int]:
    """Call `measure` on length-sorted batches of rows, yielding how many rows each call did.

    When memory runs out the budget is halved and the batch tried again.

    Raises:
        ModelError: one row alone does not fit.
    """
    pending = list(length_sorted_batches(lengths, batch_tokens))
    while pending:
        rows = pending.pop(0)
        if _fits_memory(measure, rows):
            yield len(rows)
            continue
        if len(rows) == 1:
            raise ModelError(
                f"out of memory on text {rows[0]} alone ({lengths[rows[0]]} tokens); shorten it or use a larger device"
            )
        left = rows + [row for batch in pending for row in batch]
        batch_tokens = max(1, len(rows) // 2) * max(lengths[row] for row in rows)
        pending = [
            [left[k] for k in batch]
            for batch in length_sorted_batches([lengths[row] for row in left], batch_tokens)
        ]


def _fits_memory(measure: Callable[[list[int]], None], rows: list[int]) -> bool:
    try:
        measure(rows)
        return True
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        # The CPU allocator has no exception class of its own.
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
    # Outside the handler, so that the traceback no longer keeps the failed batch alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _pooled_forward(
    model: LanguageModel, batch: TokenBatch, pooling: Tensor, inner: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One forward pass: pooled values `[text, layer, d_model]` and mean token norms `[text, layer]`."""
    pooled: dict[int, Tensor] = {}
    norms: dict[int, Tensor] = {}
    deepest = max(layers)

    def reader(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden = hidden_of(output)
            # Padded positions may hold anything, NaN included, which a weight of zero would not remove.
            real = batch.attention_mask.to(hidden.device).bool().unsqueeze(-1)
            hidden = torch.where(real, hidden, 0).float()
            pooled[layer] = torch.einsum("bt,btd->bd", pooling.to(hidden.device), hidden).cpu()
            norms[layer] = (inner.to(hidden.device) * hidden.norm(dim=-1)).sum(-1).cpu()
            if layer == deepest:
                raise _DeepestLayerReached

        return hook

    with contextlib.ExitStack() as stack:
        for layer in layers:
            handle = model.blocks[layer].register_forward_hook(reader(layer))
            stack.callback(handle.remove)
        with contextlib.suppress(_DeepestLayerReached):
            model.model(**batch.to(model.device), use_cache=False)
    return (
        torch.stack([pooled[layer] for layer in layers], dim=1),
        torch.stack([norms[layer] for layer in layers], dim=1),
    )
