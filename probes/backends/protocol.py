"""What a capture backend is: a way of running a model that shows the residual stream after its blocks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from probes.errors import ModelError, StorypriorError
from probes.models import LanguageModel
from probes.tokens import TokenBatch

Visit = Callable[[int, Tensor], None]
"""Called with a layer and its `resid_post` `[text, token, d_model]`, in any order of layers, each once."""

Read = Callable[[TokenBatch, Sequence[int], Visit], None]
"""One forward pass over a padded batch, visiting the layers asked for. Padded positions hold anything."""

CAPABILITIES = {
    "local": "measure the weights that are loaded in this process",
    "remote": "measure a model whose weights are not loaded in this process",
    "early_stop": "end the forward pass after the deepest layer",
    "steered": "respect hooks on the embeddings or the blocks, as steering sets them",
    "inner_hooks": "respect hooks on modules inside the blocks",
    "sharded": "run a model that is spread over several devices or offloaded",
}
"""What a backend may declare, and how an error message says it."""


@runtime_checkable
class Backend(Protocol):
    """Anything `capture` can read with; a class of your own needs just these three.

    `reader` is called once for every capture, so that what has to be built around a model is built
    once; the function it returns is called once for every batch. It must pass `input_ids`,
    `attention_mask` and `position_ids` on as they are, visit layer i with the output of block i
    before any final norm, leave nothing behind on the user's model, whatever is raised, and let our
    errors and a lack of memory in `visit` through.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Keys of `CAPABILITIES`."""

    def reader(self, model: LanguageModel) -> Read:
        """The function that runs batches through this model."""


class DeepestLayerReached(Exception):
    """Ends a forward pass early: nothing above the deepest captured block is computed."""


def needs(model: LanguageModel) -> dict[str, str]:
    """The capabilities that this model, as it is now, asks of a backend, each with the reason."""
    if model.device.type == "meta":
        return {"remote": f"{model.name} has no weights here"}
    found = {"local": f"the weights of {model.name} are in this process"}
    devices = {parameter.device for parameter in model.model.parameters()}
    if len(devices) > 1:
        found["sharded"] = f"{model.name} lies on {len(devices)} devices"
    inside = {id(module) for block in model.blocks for module in block.modules()}
    inside -= {id(block) for block in model.blocks}
    for name, module in model.model.named_modules():
        if "_hf_hook" in vars(module):
            found["sharded"] = f"{model.name} was placed by accelerate"
        if _has_hooks(module):
            kind = "inner_hooks" if id(module) in inside else "steered"
            found[kind] = f"{name or type(module).__name__} has a forward hook"
    return found


def _has_hooks(module: nn.Module) -> bool:
    """Whether somebody's hook is there; those that transformers leaves to collect outputs change nothing."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


@contextmanager
def named_errors(backend: str, model: LanguageModel, doing: str) -> Iterator[None]:
    """Give a library's errors the backend's and the model's name; ours and a lack of memory pass as they are.

    Raises:
        ModelError: in place of whatever the library raised.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, StorypriorError) or is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f'backend "{backend}" failed {doing} {model.name or type(model.model).__name__} '
            f'({type(error).__name__}: {reason}); use backend="hooks"'
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; the CPU allocator has no exception class of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and any(text in str(error) for text in ("can't allocate memory", "not enough memory"))
    )
