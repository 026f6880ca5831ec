"""`steer`: interventions on a model for as long as a `with` block lasts."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from probes import DataError, LanguageModel, LayerError
from probes.layers import hidden_of, with_hidden
from steering.interventions import Edit, Intervention


@contextlib.contextmanager
def steer(model: LanguageModel, *interventions: Intervention) -> Iterator[LanguageModel]:
    """Apply interventions to every forward pass inside the block, generation included.

    Each edits the residual stream after its blocks, in the order given, at every token but BOS: the
    first token is a sink of attention whose residual norm is orders of magnitude larger, and moving
    it does something else than moving the text. Edits are functions of one position alone, so they
    act alike with and without the key-value cache, in any batch, under any padding.

    The hooks of the block are removed when it ends, however it ends; others stay.

    Raises:
        LayerError: an intervention's layer is outside the model.
        DataError: it was made for a residual stream of another width.
    """
    for intervention in interventions:
        if intervention.d_model != model.d_model:
            raise DataError(
                f"the intervention has width {intervention.d_model} but {model.name} has "
                f"{model.d_model}; its direction comes from another model"
            )
        for layer in intervention.at_layers:
            if not 0 <= layer < model.n_layers:
                raise LayerError(
                    f"layer {layer} is out of range: {model.name} has layers 0 to {model.n_layers - 1}"
                )
    with contextlib.ExitStack() as stack:
        bos = _BosPositions(model.tokenizer.bos_token_id, model.tokenizer.pad_token_id)
        embeddings = model.model.get_input_embeddings()
        stack.callback(embeddings.register_forward_pre_hook(bos.read).remove)
        for intervention in interventions:
            for layer in intervention.at_layers:
                block = model.blocks[layer]
                device = next(block.parameters()).device
                hook = _editor(intervention.edit_at(layer, device), bos)
                stack.callback(block.register_forward_hook(hook).remove)
        yield model


class _BosPositions:
    """Which positions of the forward pass under way hold the BOS that opens a text.

    Read where ids enter the model. Where a chat template uses the same token to open every turn, only
    the first one counts; a pass of one token continues a text and opens none.
    """

    def __init__(self, bos_id: int | None, pad_id: int | None) -> None:
        self.bos_id = bos_id
        self.pad_id = pad_id
        self.mask: Tensor | None = None

    def read(self, module: Any, args: tuple) -> None:
        ids = args[0]
        self.mask = None
        if self.bos_id is not None and ids.ndim == 2 and ids.shape[1] > 1:
            opening = (ids == self.bos_id) | (ids == self.pad_id)
            self.mask = opening.cumprod(-1).bool() & (ids == self.bos_id)


def _editor(edit: Edit, bos: _BosPositions) -> Any:
    def hook(module: Any, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        edited = edit(hidden)
        if bos.mask is not None and bos.mask.shape == hidden.shape[:2]:
            edited = torch.where(bos.mask.to(hidden.device).unsqueeze(-1), hidden, edited)
        return with_hidden(output, edited)

    return hook
