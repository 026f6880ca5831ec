"""`trace_tokens`: the projection of every token of one text on a direction, layer by layer."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.directions import Direction
from probes.errors import DataError, LayerError
from probes.layers import hidden_of, resolve_layers
from probes.models import LanguageModel
from probes.pooling import offsets_of
from probes.tokens import Text, Tokens, encode, pad, pad_id_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from probes.heatmap import PerLayer


@dataclass(frozen=True, slots=True, eq=False)
class TokenTrace:
    """How strongly each token of one text points along a direction.

    Attributes:
        tokens: the characters each token covers; a token that stands for none (BOS) under its own
            name. The tokens of a character made of several all show that character.
        offsets: each token's character range in `rendered`.
        rendered: the text, or the chat as the tokenizer's template renders it.
        layers: block index of each column.
        projections: `[token, layer]`, float32, inner products ⟨h, u⟩ of a token's residual vector
            with the unit vector at the layer; positive means that the concept is present.
        bos: how many leading tokens are BOS (0 or 1).
        name: the direction's name.
    """

    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    rendered: str
    layers: tuple[int, ...]
    projections: Float[Tensor, "token layer"]
    bos: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.tokens), len(self.layers))
        if self.projections.shape != shape or len(self.offsets) != len(self.tokens) or 0 in shape:
            raise DataError(
                f"projections of shape {tuple(self.projections.shape)} and {len(self.offsets)} offsets "
                f"do not fit {shape[0]} tokens at {shape[1]} layers"
            )
        bad = ~torch.isfinite(self.projections)
        if bad.any():
            token, column = bad.nonzero()[0].tolist()
            raise DataError(
                f"the projection of token {token} ({self.tokens[token]!r}) at layer "
                f"{self.layers[column]} is not finite; load the model in float32"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, layer: int) -> Float[Tensor, " token"]:
        """Projections at one block; raises `LayerError` when the trace does not hold it."""
        return self.projections[:, self.column_of(layer)]

    def column_of(self, layer: int) -> int:
        """Column of a block index; raises `LayerError` when the trace does not hold it."""
        if layer not in self.layers:
            raise LayerError(f"layer {layer} was not traced; this trace holds {list(self.layers)}")
        return self.layers.index(layer)

    def to_html(
        self,
        path: str | os.PathLike | None = None,
        layer: int | None = None,
        *,
        centre: "PerLayer" = 0.0,
        scale: "PerLayer" = 1.0,
        limit: float | None = None,
    ) -> str:
        """The text as a standalone HTML page, every token coloured by its projection.

        Shown is `(projection - centre) / scale`; the exact projection is in each token's tooltip.

        Args:
            path: where to write the page; it is written whole or not at all.
            layer: one block; by default all of the trace, one below the other.
            centre: the projection without colour, one number or one per layer of the trace, such
                as the mean over neutral texts.
            scale: the unit shown, likewise, such as the standard deviation over neutral texts.
            limit: the shown value at which colour is full; by default the largest of the layer,
                the first token left out, which is a sink of attention.

        Raises:
            LayerError: the trace does not hold the layer.
            DataError: centre, scale or limit is not finite, not positive where it must be, or not
                one per layer.
            ArtefactError: the page cannot be written.
        """
        from probes.heatmap import html_page

        return html_page(self, path, layer, centre, scale, limit)

    def plot(
        self,
        path: str | os.PathLike | None = None,
        layer: int | None = None,
        *,
        centre: "PerLayer" = 0.0,
        scale: "PerLayer" = 1.0,
        limit: float | None = None,
    ) -> "Figure":
        """A matplotlib figure: bars over the tokens at one layer, a heat map at several.

        Arguments and errors are those of `to_html`; the suffix of `path` names the picture's format.
        """
        from probes.token_figure import figure

        return figure(self, path, layer, centre, scale, limit)

    def _repr_html_(self) -> str:
        from probes.heatmap import html_fragment

        return html_fragment(self)


@torch.no_grad()
def trace_tokens(
    model: LanguageModel,
    text: Text,
    direction: Direction,
    *,
    layers: int | Sequence[int] | None = None,
) -> TokenTrace:
    """Inner products of every token's residual vector with a direction, computed in float32.

    The text runs alone and once; steering in force and hooks of your own act on what is measured.

    Args:
        model: what `load` or `wrap` returned.
        text: one string or one chat; a chat is measured as rendered by the tokenizer's template.
        direction: the unit vectors to project on.
        layers: block indices among the direction's; by default its selected layer, or all of its
            layers when none was selected.

    Raises:
        DataError: the direction has another width than the model, the text is empty or too long,
            the tokenizer reports no offsets, or a projection is not finite.
        LayerError: the model or the direction lacks one of the layers.
    """
    if direction.d_model != model.d_model:
        raise DataError(
            f"direction {direction.name!r} has width {direction.d_model} but {model.name} has "
            f"{model.d_model}; it comes from another model"
        )
    if layers is None:
        layers = direction.layers if direction.layer is None else direction.layer
    chosen = resolve_layers(layers, model.n_layers)
    vectors = [direction.at(layer) for layer in chosen]
    tokens = encode(model.tokenizer, [text], max_length=model.max_length)[0]
    names = _names(model.tokenizer, tokens)
    seen = _projections(model, tokens, dict(zip(chosen, vectors, strict=True)))
    projections = torch.stack([seen[layer] for layer in chosen], dim=1)
    return TokenTrace(
        names, offsets_of(tokens), tokens.rendered, chosen, projections, tokens.bos, direction.name
    )


class _DeepestLayerReached(Exception):
    """Ends a forward pass early: nothing above the deepest traced block is computed."""


def _projections(
    model: LanguageModel, tokens: Tokens, vectors: dict[int, Tensor]
) -> dict[int, Tensor]:
    """One forward pass: at each layer the projection `[token]`, float32, on the CPU."""
    seen: dict[int, Tensor] = {}

    def reader(layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            hidden = hidden_of(output)[0].float()
            seen[layer] = (hidden * vectors[layer].to(hidden.device)).sum(-1).cpu()
            if layer == max(vectors):
                raise _DeepestLayerReached

        return hook

    batch = pad([tokens], pad_id_of(model.tokenizer))
    with contextlib.ExitStack() as stack:
        for layer in vectors:
            stack.callback(model.blocks[layer].register_forward_hook(reader(layer)).remove)
        with contextlib.suppress(_DeepestLayerReached):
            model.model(**batch.to(model.device), use_cache=False)
    return seen


def _names(tokenizer: Any, tokens: Tokens) -> tuple[str, ...]:
    """What each token covers in the text, or else its own name in the vocabulary."""
    return tuple(
        tokens.rendered[first:last] or str(tokenizer.convert_ids_to_tokens(token))
        for token, (first, last) in zip(tokens.ids, offsets_of(tokens), strict=True)
    )
