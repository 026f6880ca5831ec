"""Texts through a model → pooled residual-stream activations, streamed batch by batch."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.activations import Activations
from probes.backends import Backend, Read, reader
from probes.backends.protocol import is_out_of_memory
from probes.errors import ModelError
from probes.layers import resolve_layers
from probes.models import LanguageModel
from probes.pooling import Pool, fingerprints, on_grid, past_the_first, pool_name, pooling_weights
from probes.tokens import Text, TokenBatch, encode, length_sorted_batches, pad, pad_id_of


@torch.no_grad()
def capture(
    model: LanguageModel,
    texts: Sequence[Text],
    *,
    layers: str | int | Sequence[int] = "all",
    pool: Pool = "last",
    batch_tokens: int = 4096,
    padding_side: str = "right",
    backend: str | Backend = "hooks",
    progress: bool = False,
) -> Activations:
    """Residual-stream activations after the chosen blocks, pooled over tokens.

    Args:
        model: what `load` or `wrap` returned; its dtype and device are used as they are.
        texts: strings or chats. A chat is measured as rendered by the tokenizer's template.
        layers: "all" or 0-based block indices; the forward pass ends after the deepest.
        pool: "last" takes the last token; "mean" averages all tokens but BOS; "assistant" those of
            what each chat's last assistant message says; `After("marker")` those that begin after
            a marker in the text or rendered chat; a list of character ranges, one per text, those
            that belong to them (`probes.pooling` says when a token does).
        batch_tokens: padded tokens per forward pass; halved whenever memory runs out.
        padding_side: "right" or "left"; results do not depend on it beyond rounding. (In float64
            transformers' eager attention makes NaN of padding: use its "sdpa".)
        backend: what runs the model: "hooks", "transformer_lens", "nnsight", or an object of
            `probes.backends`; results agree within rounding.
        progress: show a progress bar.

    Returns:
        `Activations` with `values` `[text, layer, d_model]` in float32 on the CPU, in input order.

    Raises:
        DataError: a text is empty or too long, `pool` is unknown or takes none of a text's tokens, or
            `backend` is unknown.
        LayerError: a layer is out of range.
        ModelError: a single text does not fit into memory, or the backend cannot run this model.
    """
    chosen = resolve_layers(layers, model.n_layers)
    encoded = encode(model.tokenizer, texts, max_length=model.max_length)
    weights = pooling_weights(encoded, pool)
    read = reader(backend, model)
    values = torch.empty(len(encoded), len(chosen), model.d_model)
    norms = torch.empty(len(encoded), len(chosen))

    def measure(rows: list[int]) -> None:
        batch = pad([encoded[row] for row in rows], pad_id_of(model.tokenizer), padding_side)
        pooling = on_grid([weights[row] for row in rows], batch)
        inner = on_grid([past_the_first(encoded[row]) for row in rows], batch)
        values[rows], norms[rows] = _pooled_forward(read, batch, pooling, inner, chosen)

    lengths = [len(tokens) for tokens in encoded]
    with tqdm(total=len(encoded), desc="capture", unit="text", disable=not progress) as bar:
        for done in for_each_batch(lengths, batch_tokens, measure):
            bar.update(done)
    return Activations(
        values,
        chosen,
        norms.double().mean(0).float(),
        pool_name(pool),
        model.identity,
        fingerprints(encoded, weights),
    )


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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, so that the traceback no longer keeps the failed batch alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def _pooled_forward(
    read: Read, batch: TokenBatch, pooling: Tensor, inner: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """One forward pass: pooled values `[text, layer, d_model]` and mean token norms `[text, layer]`."""
    pooled: dict[int, Tensor] = {}
    norms: dict[int, Tensor] = {}

    def visit(layer: int, hidden: Tensor) -> None:
        # Padded positions may hold anything, NaN included, which a weight of zero would not remove.
        real = batch.attention_mask.to(hidden.device).bool().unsqueeze(-1)
        hidden = torch.where(real, hidden, 0).float()
        pooled[layer] = torch.einsum("bt,btd->bd", pooling.to(hidden.device), hidden).cpu()
        norms[layer] = (inner.to(hidden.device) * hidden.norm(dim=-1)).sum(-1).cpu()

    read(batch, layers, visit)
    if missing := [layer for layer in layers if layer not in pooled]:
        raise ModelError(f"the backend did not report layers {missing}; it has to visit every one")
    return (
        torch.stack([pooled[layer] for layer in layers], dim=1),
        torch.stack([norms[layer] for layer in layers], dim=1),
    )
