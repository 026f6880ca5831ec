"""`attribute`: which attention heads and MLPs write a direction into the residual stream, exactly."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probes.backends.protocol import DeepestLayerReached
from probes.capture import for_each_batch
from probes.contributions import Attribution
from probes.directions import Direction
from probes.errors import DataError, ModelError
from probes.files import sha256_json
from probes.layers import resolve_layers
from probes.models import LanguageModel
from probes.pooling import Pool, fingerprints, on_grid, pool_name, pooling_weights
from probes.tokens import Text, encode, pad, pad_id_of
from probes.writers import BlockReader, Grid

# Of the size of the summands, coordinate by coordinate. Half precision rounds every sum it stores.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 6e-2}


# Output projections are applied backwards by automatic differentiation, which that mode forbids.
@torch.inference_mode(False)
@torch.no_grad()
def attribute(
    model: LanguageModel,
    texts: Sequence[Text],
    direction: Direction,
    *,
    layer: int | None = None,
    pool: Pool = "last",
    batch_tokens: int = 4096,
    padding_side: str = "right",
) -> Attribution:
    """Direct contributions of all components to the projection ⟨h, u⟩ after one block.

    The residual stream is a sum of what the embedding, every head and every MLP wrote into it
    (Elhage et al., 2021), so its projection onto u is the sum of theirs:

        ⟨h, u⟩ = embedding + Σ over blocks ( Σ heads + MLP + bias + edits )

    A head's contribution is `⟨W_O z, u⟩`, z being its mixed values. Where the output of attention
    passes a norm before it is written (Gemma 3, OLMo 2), that norm counts with its scale at the
    value observed, which makes it linear. Interventions of `steering.steer` that are active appear
    as `edits` of their layer. Contributions are direct ones: what a component does by way of later
    components is theirs.

    This reads the transformers modules by plain hooks. The bridge of TransformerLens gives the same
    components, and the tests compare the two; but it rebuilds the model it is given, and the `W_O`
    that heads are told apart with leaves out what an adapter adds to it.

    Args:
        model: what `load` or `wrap` returned, adapters and all.
        texts: strings or chats.
        direction: its unit vector at `layer` is u.
        layer: block index; by default the direction's selected layer.
        pool: as in `capture`.
        batch_tokens: padded tokens per forward pass; halved whenever memory runs out.
        padding_side: "right" or "left"; results do not depend on it beyond rounding.

    Returns:
        `Attribution`; its `total` `[text]` is what `direction.project(capture(...))` gives, and the
        contributions sum to it within rounding, or an error is raised: 1e-4 of the size of the
        summands, coordinate by coordinate, in float32, 1e-2 in float16, 6e-2 in bfloat16.

    Raises:
        DataError: the direction has another width, or the texts or the pooling are unusable.
        LayerError: the layer is out of range, the direction lacks it, or none is selected.
        ModelError: the parts of a block are not recognised, or do not sum to what it adds to the
            stream: the architecture is not supported, or hooks inside the block edit it; or the
            weights are not in memory.
    """
    layer = direction.selected_layer if layer is None else layer
    (layer,) = resolve_layers((layer,), model.n_layers)
    unit = direction.at(layer)
    if direction.d_model != model.d_model:
        raise DataError(
            f"direction {direction.name!r} has width {direction.d_model} but {model.name} has "
            f"{model.d_model}; it comes from another model"
        )
    if next(model.model.get_input_embeddings().parameters()).is_meta:
        raise ModelError(f"{model.name} has no weights in memory; attribution runs the model here")
    heads = _head_count(model)
    encoded = encode(model.tokenizer, texts, max_length=model.max_length)
    weights = pooling_weights(encoded, pool)
    depth = layer + 1
    result = Attribution(
        heads=torch.empty(len(encoded), depth, heads),
        mlps=torch.empty(len(encoded), depth),
        bias=torch.empty(len(encoded), depth),
        edits=torch.empty(len(encoded), depth),
        embedding=torch.empty(len(encoded)),
        total=torch.empty(len(encoded)),
        layer=layer,
        name=direction.name,
        pool=pool_name(pool),
        model=model.identity,
        tokens=sha256_json(fingerprints(encoded, weights).tolist()),
    )

    def measure(rows: list[int]) -> None:
        batch = pad([encoded[row] for row in rows], pad_id_of(model.tokenizer), padding_side)
        pooling = on_grid([weights[row] for row in rows], batch)
        readers = _forward(model, batch, Grid(unit, pooling, batch.attention_mask), layer, heads)
        for k, reader in enumerate(readers):
            result.heads[rows, k] = reader.heads
            result.mlps[rows, k] = reader.mlp
            result.bias[rows, k] = reader.bias
            result.edits[rows, k] = reader.after - reader.out
        result.embedding[rows] = readers[0].before
        result.total[rows] = readers[-1].after
        _check(readers, result.total[rows] - result.sum()[rows], model)

    for _ in for_each_batch([len(tokens) for tokens in encoded], batch_tokens, measure):
        pass
    return result


def _forward(
    model: LanguageModel, batch: Any, grid: Grid, layer: int, heads: int
) -> list[BlockReader]:
    readers = [BlockReader(model.blocks[k], k, heads, grid) for k in range(layer + 1)]

    def stop(module: Any, args: Any, output: Any) -> None:
        raise DeepestLayerReached

    with contextlib.ExitStack() as stack:
        for reader in readers:
            reader.attach(stack)
        stack.callback(model.blocks[layer].register_forward_hook(stop).remove)
        with contextlib.suppress(DeepestLayerReached):
            model.model(**batch.to(model.device), use_cache=False)
    return readers


def _check(readers: list[BlockReader], missing: Tensor, model: LanguageModel) -> None:
    """Raise unless every block, and the whole, adds up to what was observed."""
    tolerance = _TOLERANCE.get(model.dtype, 1e-4)
    size = torch.zeros_like(missing)
    for k, reader in enumerate(readers):
        size = torch.hypot(size, reader.size)
        parts = reader.heads.sum(-1) + reader.mlp + reader.bias
        gap = (reader.out - reader.before - parts).abs()
        if not (gap <= tolerance * reader.size).all():
            raise ModelError(
                f"the heads and the MLP of block {k} of {model.name} do not add up to what it writes "
                f"(off by {gap.max():.3g}): {type(model.blocks[k]).__name__} writes in a way not supported "
                "here, or hooks inside the block edit it, or an activation is not finite"
            )
    if not (missing.abs() <= tolerance * size).all():
        raise ModelError(
            f"something writes into the residual stream of {model.name} between its blocks (off by "
            f"{missing.abs().max():.3g}); this architecture is not supported here"
        )


def _head_count(model: LanguageModel) -> int:
    heads = getattr(model.model.config.get_text_config(decoder=True), "num_attention_heads", None)
    if not isinstance(heads, int):
        raise ModelError(
            f"the configuration of {model.name} gives {heads!r} attention heads; heads can be told "
            "apart only where every block has the same number"
        )
    return heads
