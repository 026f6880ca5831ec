"""Reading through TransformerLens 4: its `TransformerBridge` around a twin of the model."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from probes.backends.protocol import DeepestLayerReached, Read, Visit, named_errors
from probes.backends.twin import twin_of
from probes.errors import ModelError
from probes.models import LanguageModel
from probes.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class TransformerLens:
    """Reads `blocks.i.hook_out` of a `TransformerBridge`.

    The bridge computes norms and attention by code of its own, so that its values agree with the
    model's within rounding, not to the bit; modules inside its blocks are not called in the usual
    way, which is why hooks on them are refused. Weights are used as they are: nothing is folded,
    centred or cast.
    """

    name: ClassVar[str] = "transformer_lens"
    capabilities: ClassVar[frozenset[str]] = frozenset({"local", "early_stop", "steered"})

    def reader(self, model: LanguageModel) -> Read:
        """Build the bridge; returns the function that runs batches through it.

        Raises:
            ModelError: the library is not installed, or does not support the architecture.
        """
        try:
            from transformer_lens.model_bridge.sources import build_bridge_from_module
        except ImportError as error:
            raise ModelError(
                'backend "transformer_lens" needs TransformerLens 4; pip install storyprior[backends]'
            ) from error
        twin = twin_of(model)
        with named_errors(self.name, model, "to wrap"):
            # Without the tokenizer, which it would alter and which reading does not need.
            bridge = build_bridge_from_module(
                twin.model,
                type(model.model).__name__,
                hf_config=copy.deepcopy(model.model.config),
                model_name=model.name,
            )
            originals = [block.original_component for block in bridge.blocks]
        if len(originals) != len(twin.blocks) or any(
            theirs is not ours for theirs, ours in zip(originals, twin.blocks, strict=True)
        ):
            raise ModelError(
                f'backend "transformer_lens" counts other blocks than {model.name} has at '
                f'{twin.path!r}; use backend="hooks"'
            )

        def read(batch: TokenBatch, layers: Sequence[int], visit: Visit) -> None:
            places = None
            if model.dtype in (torch.float64, torch.float16):
                batch, places = _without_mask(batch)
            hooks = [
                (f"blocks.{layer}.hook_out", _visitor(visit, layer, max(layers), places))
                for layer in layers
            ]
            inputs = batch.to(model.device)
            with (
                named_errors(self.name, model, "to run"),
                contextlib.suppress(DeepestLayerReached),
                bridge.hooks(fwd_hooks=hooks),
            ):
                bridge(inputs.pop("input_ids"), **inputs, use_cache=False, return_type=None)

        return read


def _without_mask(batch: TokenBatch) -> tuple[TokenBatch, Tensor]:
    """The batch with its padding moved to the right and unmasked; where each token `[text, token]` went.

    Attention is masked by adding the dtype's smallest number: in float64 that is -inf in the float32
    of the bridge's softmax (and of transformers' "eager" one), in float16 it is once a negative
    score is added. Padding that sees no token then becomes NaN, and a weight of zero does not keep
    that from spreading. To the right of a causal model's tokens padding needs no mask.
    """
    order = batch.attention_mask.argsort(dim=-1, descending=True, stable=True)
    ids, positions = batch.input_ids.gather(1, order), batch.position_ids.gather(1, order)
    return TokenBatch(ids, torch.ones_like(ids), positions), order.argsort(dim=-1)


def _visitor(visit: Visit, layer: int, deepest: int, places: Tensor | None) -> Callable[..., None]:
    def hook(hidden: Tensor, hook: Any) -> None:
        if places is not None:
            where = places.to(hidden.device).unsqueeze(-1).expand_as(hidden)
            hidden = hidden.gather(1, where)
        visit(layer, hidden)
        if layer == deepest:
            raise DeepestLayerReached

    return hook
