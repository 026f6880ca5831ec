"""Where the blocks of a causal language model are, and what "layer i" means.

Layer i is the output of block i (0-based), before the final norm: `resid_post`. It equals
`hidden_states[i + 1]` of transformers except for the last block, whose entry there has already
passed the final norm; `blocks.i.hook_out` of TransformerLens; and `direction.i` of llama.cpp.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from probes.errors import LayerError, ModelError

Blocks = nn.ModuleList | nn.Sequential
"""The transformer blocks of a model, in order."""


def find_blocks(model: nn.Module, path: str | None = None) -> Blocks:
    """The list of transformer blocks of `model`, in order.

    Without a path it is the one outermost `ModuleList` that has as many entries as the (text)
    configuration has layers; with a path, the module at that dotted name.

    Raises:
        ModelError: no list or several fit, or the path does not lead to a list of modules.
    """
    if path is not None:
        return _at_path(model, path)
    config = getattr(model, "config", None)
    depth = (
        getattr(config.get_text_config(decoder=True), "num_hidden_layers", None) if config else None
    )
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside_another = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == depth and not inside_another:
            found[name] = module
    if len(found) == 1:
        return next(iter(found.values()))
    seen = ", ".join(found) or ", ".join(
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    )
    raise ModelError(
        f"cannot tell which modules are the blocks of {type(model).__name__} (layers in its config: {depth}; "
        f'candidates: {seen or "none"}); pass blocks="path.to.layers"'
    )


def _at_path(model: nn.Module, path: str) -> Blocks:
    try:
        blocks = model.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f'{type(model).__name__} has no module blocks="{path}" ({error})'
        ) from error
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or len(blocks) == 0:
        raise ModelError(
            f'blocks="{path}" is a {type(blocks).__name__}; it must be a non-empty ModuleList'
        )
    return blocks


def resolve_layers(layers: str | int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Layer indices asked for, in the order given; "all" is `0 … depth-1`.

    Raises:
        LayerError: an index is not an integer in `[0, depth)`, is repeated, or none is given.
    """
    if layers == "all":
        return tuple(range(depth))
    chosen: tuple[Any, ...] = (layers,) if isinstance(layers, int) else tuple(layers)
    for layer in chosen:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < depth:
            raise LayerError(
                f"layer {layer!r} is out of range: the model has layers 0 to {depth - 1}"
            )
    if not chosen or len(set(chosen)) != len(chosen):
        raise LayerError(f"layers {list(chosen)} must be at least one index, each once")
    return chosen


def hidden_of(output: Any) -> Tensor:
    """The residual stream `[batch, token, d_model]` in a block's output, a tensor or a tuple led by one."""
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        kind = (
            f"a tensor of shape {tuple(hidden.shape)}"
            if isinstance(hidden, Tensor)
            else type(hidden).__name__
        )
        raise ModelError(
            f'a block returned {kind} instead of [batch, token, d_model]; pass blocks="path.to.layers" '
            "of the transformer blocks"
        )
    return hidden


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """The block's output with its residual stream replaced by `hidden`, in the form the model expects."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
