"""The default backend: plain forward hooks on the blocks of the model itself."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from probes.backends.protocol import DeepestLayerReached, Read, Visit
from probes.layers import hidden_of
from probes.models import LanguageModel
from probes.tokens import TokenBatch


@dataclass(frozen=True, slots=True)
class Hooks:
    """Reads with PyTorch's forward hooks: the fastest, for every architecture, needing no other library."""

    name: ClassVar[str] = "hooks"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"local", "early_stop", "steered", "inner_hooks", "sharded"}
    )

    def reader(self, model: LanguageModel) -> Read:
        """The function that runs batches through this model."""

        def read(batch: TokenBatch, layers: Sequence[int], visit: Visit) -> None:
            deepest = max(layers)

            def visitor(layer: int) -> Callable[..., None]:
                def hook(module: Any, args: Any, output: Any) -> None:
                    visit(layer, hidden_of(output))
                    if layer == deepest:
                        raise DeepestLayerReached

                return hook

            with contextlib.ExitStack() as stack:
                for layer in layers:
                    handle = model.blocks[layer].register_forward_hook(visitor(layer))
                    stack.callback(handle.remove)
                with contextlib.suppress(DeepestLayerReached):
                    model.model(**batch.to(model.device), use_cache=False)

        return read
