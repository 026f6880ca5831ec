"""`logit_lens`: the tokens that a direction makes more and less likely, read off the unembedding."""

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.directions import Direction
from probes.errors import DataError, ModelError
from probes.layers import hidden_of, resolve_layers
from probes.models import LanguageModel
from probes.norms import FrozenNorm, read_norm

_ROWS_AT_ONCE = 32_768
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class LogitLens:
    """What a direction does to the logits when nothing but the final norm stands between.

    Attributes:
        tokens: the `top` most raised tokens, most raised first, then the `top` most lowered, most
            lowered first; no token is in both halves.
        changes: `[shown]`, their logit changes, in logits per unit of steering strength.
        values: `[token]`, the logit change of every token of the tokenizer; their mean is zero.
        layer: the layer whose vector was read.
        name: the direction's name.
        model: identity of the model; of a difference both, "a - b".
        is_difference: whether this is `a - b` of two others.
    """

    tokens: tuple[str, ...]
    changes: Float[Tensor, " shown"]
    values: Float[Tensor, " token"]
    layer: int
    name: str = ""
    model: str = ""
    is_difference: bool = False
    _tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def raised(self) -> list[tuple[str, float]]:
        """The tokens raised most, with their logit changes."""
        half = len(self.tokens) // 2
        return list(zip(self.tokens[:half], self.changes[:half].tolist(), strict=True))

    @property
    def lowered(self) -> list[tuple[str, float]]:
        """The tokens lowered most, with their logit changes."""
        half = len(self.tokens) // 2
        return list(zip(self.tokens[half:], self.changes[half:].tolist(), strict=True))

    def compare(self, other: "LogitLens") -> float:
        """Correlation over the vocabulary with another reading: 1 where the two move all tokens alike.

        Raises:
            DataError: the vocabularies differ.
        """
        self._check_same(other)
        return float(torch.corrcoef(torch.stack([self.values, other.values]).double())[0, 1])

    def __sub__(self, other: "LogitLens") -> "LogitLens":
        """The tokens that this reading raises more, and less, than the other one.

        Raises:
            DataError: the vocabularies or the layers differ.
        """
        if not isinstance(other, LogitLens):
            return NotImplemented
        self._check_same(other)
        if self.layer != other.layer:
            raise DataError(
                f"the readings are of layers {self.layer} and {other.layer}; subtract those of one layer"
            )
        values = self.values - other.values
        tokens, changes = _extremes(values, len(self.tokens) // 2, self._tokenizer)
        name = self.name if self.name == other.name else f"{self.name} - {other.name}"
        model = f"{self.model} - {other.model}"
        return replace(
            self,
            tokens=tokens,
            changes=changes,
            values=values,
            name=name,
            model=model,
            is_difference=True,
        )

    def _check_same(self, other: "LogitLens") -> None:
        if self.values.shape != other.values.shape:
            raise DataError(
                f"the readings are over {len(self.values)} and {len(other.values)} tokens; compare "
                "checkpoints that share a tokenizer"
            )
        if _vocabulary(self._tokenizer) != _vocabulary(other._tokenizer):
            raise DataError(
                f"the readings are over {len(self.values)} tokens each, but not the same ones; compare "
                "checkpoints that share a tokenizer"
            )

    @property
    def what(self) -> str:
        """What was read, for headings."""
        models = ", one model minus the other" if self.is_difference else ""
        return f"{self.name or 'direction'} of layer {self.layer}{models}"

    def __str__(self) -> str:
        lines = [f"{self.what}, logits per unit of strength", f"  {'raised':<28}lowered"]
        for up, down in list(zip(self.raised, self.lowered, strict=True))[:_SHOWN]:
            left, right = (f"{quoted(token):<18}{change:+8.3g}" for token, change in (up, down))
            lines.append(f"  {left}  {right}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The tokens shown and their figures as JSON values."""
        return {
            "direction": self.name,
            "layer": self.layer,
            "what": self.what,
            "model": self.model,
            "unit": "logits per unit of strength",
            "raised": [[token, change] for token, change in self.raised],
            "lowered": [[token, change] for token, change in self.lowered],
        }


@torch.no_grad()
def logit_lens(
    model: LanguageModel, direction: Direction, *, layer: int | None = None, top: int = 20
) -> LogitLens:
    """Read a direction through the final norm and the unembedding (logit lens, nostalgebraist 2020).

    Steering with strength s adds `s · N · u` to a residual of norm N. Were it read at once, through
    the final norm with its scale frozen at that residual's, `N / √d_model`, logit k would change by
    `s` times

        √d_model · ⟨W_U[k] − mean of W_U over tokens, gain ⊙ u⟩

    in which N cancels: the figures need no norms and hold for any of them (`u` loses its mean over
    coordinates first where the norm centres, and N then is the norm of what remains). A shift of all
    logits alike changes no probability, so the unembedding is centred. The reading leaves out what
    the blocks above do with the direction, soft caps and logit scales; it says most in late layers.

    Args:
        model: what `load` or `wrap` returned.
        direction: its unit vector at `layer` is u.
        layer: block index; by default the direction's selected layer.
        top: tokens to list on each side.

    Returns:
        `LogitLens`, in logits per unit of strength (1: a push as long as the residual itself).

    Raises:
        DataError: the direction has another width, or `top` is less than 1 or over half the tokens.
        LayerError: the layer is out of range, the direction lacks it, or none is selected.
        ModelError: the final norm or the unembedding is not one that can be read, or not in memory.
    """
    layer = direction.selected_layer if layer is None else layer
    (layer,) = resolve_layers((layer,), model.n_layers)
    unit = direction.at(layer)
    if direction.d_model != model.d_model:
        raise DataError(
            f"direction {direction.name!r} has width {direction.d_model} but {model.name} has "
            f"{model.d_model}; it comes from another model"
        )
    weight = _unembedding(model)[: len(model.tokenizer)]
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= len(weight) // 2:
        raise DataError(f"top={top!r} must be an integer from 1 to {len(weight) // 2}")
    norm = final_norm(model)
    read = norm.push(unit.to(norm.gain.device)) * math.sqrt(model.d_model)
    read = read.to(weight.device)
    # In parts: a float32 copy of a large vocabulary is dearer than the model.
    values = torch.cat([rows.float() @ read for rows in weight.split(_ROWS_AT_ONCE)]).cpu()
    values = values - values.mean()
    if not torch.isfinite(values).all():
        raise ModelError(f"the unembedding or the final norm of {model.name} is not finite")
    tokens, changes = _extremes(values, top, model.tokenizer)
    return LogitLens(
        tokens,
        changes,
        values,
        layer,
        direction.name,
        model.identity,
        _tokenizer=model.tokenizer,
    )


def final_norm(model: LanguageModel) -> FrozenNorm:
    """The norm between the last block and the unembedding: the module that reads the last block's output.

    Raises:
        ModelError: no such module, or it is no norm.
    """
    seen: dict[str, Any] = {}
    inside = {id(module) for module in model.blocks.modules()}

    def last(module: Any, args: Any, output: Any) -> None:
        seen["stream"] = hidden_of(output)

    def reader(module: nn.Module, args: tuple) -> None:
        if args and args[0] is seen.get("stream"):
            seen.setdefault("norm", module)

    with contextlib.ExitStack() as stack:
        stack.callback(model.blocks[-1].register_forward_hook(last).remove)
        for module in model.model.modules():
            if id(module) not in inside:
                stack.callback(module.register_forward_pre_hook(reader).remove)
        ids = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    if "norm" not in seen:
        raise ModelError(
            f"{model.name} has no module that reads its last block's output; the logit lens needs a "
            "final norm there"
        )
    return read_norm(seen["norm"], model.d_model, seen["stream"].device)


def _unembedding(model: LanguageModel) -> Tensor:
    head: Any = model.model.get_output_embeddings()
    if type(head) is not nn.Linear or head.weight.shape[1] != model.d_model:
        raise ModelError(
            f"the unembedding of {model.name} is a {type(head).__name__}, not a linear layer of width "
            f"{model.d_model}; merge an adapter on it first"
        )
    if head.weight.is_meta:
        raise ModelError(
            f"the unembedding of {model.name} is not in memory; load the model without offloading"
        )
    return head.weight.detach()


def _vocabulary(tokenizer: Any) -> dict[str, int] | None:
    return None if tokenizer is None else tokenizer.get_vocab()


def _extremes(values: Tensor, top: int, tokenizer: Any) -> tuple[tuple[str, ...], Tensor]:
    order = values.argsort(descending=True, stable=True)
    ids = torch.cat([order[:top], order.flip(0)[:top]])
    return tuple(_readable(tokenizer, token) for token in ids.tolist()), values[ids]


def _readable(tokenizer: Any, token: int) -> str:
    """A token as it stands in a text, with the leading space that some decoders drop."""
    text = tokenizer.decode([token])
    piece = tokenizer.convert_ids_to_tokens(token) or ""
    return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def quoted(token: str) -> str:
    """A token between marks, its spaces and line breaks visible."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    shown = "".join(letter if letter.isprintable() else "�" for letter in shown)
    return shown if len(shown) <= 16 else f"{shown[:15]}…"
