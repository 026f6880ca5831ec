"""`Attribution` and `Contributions`: a projection taken apart into what each component wrote."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import DataError

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Contributions:
    """One figure per component, in the units of the residual stream; positive is towards the concept.

    Attributes:
        heads: `[layer, head]`, layers 0 to `layer`; a bias of values counts with the head.
        mlps: `[layer]`, with their biases.
        bias: `[layer]`, constants of the attention's output projection and of norms behind it.
        edits: `[layer]`, what interventions or other hooks added after a block.
        embedding: `[]`, token embedding, with the positional one where there is one.
        total: `[]`, the projection that all of these sum to.
        layer: the block after which the projection was taken.
        name: the direction.
        what: what the figures are of, e.g. "mean of 8 texts".
        model: identity of the model; of a difference both, "a - b".
    """

    heads: Float[Tensor, "layer head"]
    mlps: Float[Tensor, " layer"]
    bias: Float[Tensor, " layer"]
    edits: Float[Tensor, " layer"]
    embedding: Float[Tensor, ""]
    total: Float[Tensor, ""]
    layer: int
    name: str = ""
    what: str = ""
    model: str = ""

    def rows(self) -> list[tuple[str, float]]:
        """Every component and its contribution, the largest in size first; L3.H0 is head 0 of block 3."""
        named = [("embedding", float(self.embedding))]
        for k, heads in enumerate(self.heads.tolist()):
            named += [(f"L{k}.H{head}", value) for head, value in enumerate(heads)]
            named.append((f"L{k}.MLP", float(self.mlps[k])))
            named += [
                (f"L{k}.{kind}", float(values[k]))
                for kind, values in (("bias", self.bias), ("edit", self.edits))
                if values[k] != 0
            ]
        return sorted(named, key=lambda row: -abs(row[1]))

    def __str__(self) -> str:
        rows = self.rows()
        rest = sum(value for _, value in rows[_SHOWN:])
        shown = rows[:_SHOWN]
        if len(rows) > _SHOWN:
            shown.append((f"{len(rows) - _SHOWN} others", rest))
        total = float(self.total)
        largest = max(abs(value) for _, value in [*shown, ("total", total)])
        decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0
        lines = [f"{self.projection} after block {self.layer}, {self.what}"]
        for label, value in [*shown, ("total", total)]:
            share = f"{value / total:7.0%}" if total else ""
            lines.append(f"  {label:<12}{value:+12.{decimals}f}{share}")
        return "\n".join(lines)

    @property
    def projection(self) -> str:
        """What was taken apart, as written in a formula."""
        return f"⟨h, {self.name or 'u'}⟩"

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON values."""
        tensors = ("heads", "mlps", "bias", "edits", "embedding", "total")
        return {
            "direction": self.name,
            "layer": self.layer,
            "what": self.what,
            "model": self.model,
            **{name: getattr(self, name).tolist() for name in tensors},
        }


@dataclass(frozen=True, slots=True)
class Attribution:
    """Contributions of every component to the projection of every text, in float32.

    In the units of the residual stream; positive is towards the concept. `tuned - base` of two
    checkpoints on the same texts is an `Attribution` too.

    Attributes:
        heads: `[text, layer, head]`, layers 0 to `layer`; a bias of values counts with the head.
        mlps: `[text, layer]`, with their biases.
        bias: `[text, layer]`, constants of the attention's output projection and of norms behind it.
        edits: `[text, layer]`, what interventions or other hooks added after a block.
        embedding: `[text]`, token embedding, with the positional one where there is one.
        total: `[text]`, the projection, as measured; `sum()` equals it within rounding.
        layer: the block after which the projection was taken.
        name: the direction's name.
        pool: how tokens became one figure.
        model: identity of the model; of a difference both, "a - b".
        tokens: hash of the token ids and of which were pooled; attributions can be compared when it
            is the same.
        is_difference: whether this is `a - b` of two others.
    """

    heads: Float[Tensor, "text layer head"]
    mlps: Float[Tensor, "text layer"]
    bias: Float[Tensor, "text layer"]
    edits: Float[Tensor, "text layer"]
    embedding: Float[Tensor, " text"]
    total: Float[Tensor, " text"]
    layer: int
    name: str = ""
    pool: str = ""
    model: str = ""
    tokens: str = ""
    is_difference: bool = False

    def __len__(self) -> int:
        return len(self.total)

    def sum(self) -> Float[Tensor, " text"]:
        """The sum of all contributions."""
        blocks = self.heads.sum(-1) + self.mlps + self.bias + self.edits
        return self.embedding + blocks.sum(-1)

    def mean(self) -> Contributions:
        """Contributions averaged over the texts."""
        return self._reduced(torch.full((len(self),), 1 / len(self)), f"mean of {len(self)} texts")

    def difference(self, labels: Sequence[int] | Tensor) -> Contributions:
        """Mean of the texts labelled 1 minus mean of those labelled 0, component by component.

        Raises:
            DataError: labels are not one 0 or 1 per text, or one class is missing.
        """
        y = torch.as_tensor(labels).cpu()
        if y.shape != (len(self),) or not torch.isin(y, torch.tensor([0, 1])).all():
            raise DataError(
                f"labels of shape {tuple(y.shape)} must be one 0 or 1 for each of the {len(self)} texts"
            )
        y = y.float()
        if y.min() == y.max():
            raise DataError(f"all {len(self)} labels are the same; a difference needs both classes")
        ones, zeros = int(y.sum()), int((1 - y).sum())
        return self._reduced(
            y / ones - (1 - y) / zeros, f"mean of {ones} texts with minus {zeros} without"
        )

    def __sub__(self, other: "Attribution") -> "Attribution":
        """What each component writes in this model more than in the other, on the same tokens.

        Attribute both along one direction, or the difference is also one of directions.

        Raises:
            DataError: they differ in layer, pooling, number of heads, token ids or pooled tokens.
        """
        if not isinstance(other, Attribution):
            return NotImplemented
        ours, theirs = ((a.layer, a.pool, a.heads.shape[1:]) for a in (self, other))
        if ours != theirs:
            raise DataError(
                f"the attributions differ in layer, pooling or number of heads: {ours} and {theirs}"
            )
        if self.tokens != other.tokens:
            raise DataError(
                "the attributions are of different texts or ranges, or of tokenizers that cut them "
                "differently; attribute the same texts in both checkpoints"
            )
        tensors = ("heads", "mlps", "bias", "edits", "embedding", "total")
        name = self.name if self.name == other.name else f"{self.name} - {other.name}"
        return replace(
            self,
            **{key: getattr(self, key) - getattr(other, key) for key in tensors},
            name=name,
            model=f"{self.model} - {other.model}",
            is_difference=True,
        )

    def __str__(self) -> str:
        return str(self.mean())

    def _reduced(self, weights: Tensor, what: str) -> Contributions:
        def over_texts(values: Tensor) -> Tensor:
            return torch.tensordot(weights.double(), values.double(), dims=1).float()

        return Contributions(
            heads=over_texts(self.heads),
            mlps=over_texts(self.mlps),
            bias=over_texts(self.bias),
            edits=over_texts(self.edits),
            embedding=over_texts(self.embedding),
            total=over_texts(self.total),
            layer=self.layer,
            name=self.name,
            what=f"{what}, one model minus the other" if self.is_difference else what,
            model=self.model,
        )
