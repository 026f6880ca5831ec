"""`Activations`: pooled residual-stream vectors of many texts, with what they were measured on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.artefacts import read_tensors, write_tensors
from probes.errors import ArtefactError, DataError, LayerError


@dataclass(frozen=True, slots=True)
class Activations:
    """Pooled activations.

    Attributes:
        values: `[text, layer, d_model]`, float32, in the order of the texts given; on the CPU, unless
            `to` has moved them.
        layers: the block index of each entry of the layer axis.
        norms: `[layer]`, mean Euclidean norm of one token's residual vector (padding and the first
            token, BOS or not, left out; every text weighing the same): the unit in which steering
            strengths are given.
        pool: how tokens became one vector.
        model: identity of the model they were captured from.
        tokens: `[text]` or `None`, int64 hash of each text's token ids and of those that were pooled, so that
            checkpoints are compared on equal terms.
    """

    values: Float[Tensor, "text layer d_model"]
    layers: tuple[int, ...]
    norms: Float[Tensor, " layer"] | None = None
    pool: str = ""
    model: str = ""
    tokens: Int[Tensor, " text"] | None = None
    _rows: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1] != len(self.layers):
            raise DataError(
                f"activations of shape {tuple(self.values.shape)} do not fit {len(self.layers)} layers; "
                "expected [text, layer, d_model]"
            )
        if self.norms is not None and self.norms.shape != (len(self.layers),):
            raise DataError(
                f"{self.norms.numel()} mean norms do not fit {len(self.layers)} layers; one each"
            )
        if self.tokens is not None and self.tokens.shape != (len(self.values),):
            raise DataError(
                f"{self.tokens.numel()} token hashes do not fit {len(self.values)} texts; one each"
            )
        if self.values.dtype in (torch.float16, torch.bfloat16):  # sums over texts need more digits
            object.__setattr__(self, "values", self.values.float())
        object.__setattr__(self, "_rows", {layer: row for row, layer in enumerate(self.layers)})

    def __len__(self) -> int:
        return self.values.shape[0]

    def at(self, layer: int) -> Float[Tensor, "text d_model"]:
        """Activations at one block; raises `LayerError` when it was not captured."""
        return self.values[:, self.row_of(layer)]

    def row_of(self, layer: int) -> int:
        """Position of a block index on the layer axis; raises `LayerError` when it was not captured."""
        if layer not in self._rows:
            raise LayerError(
                f"layer {layer} was not captured; these activations hold layers {list(self.layers)}"
            )
        return self._rows[layer]

    def select(self, rows: "Tensor | list[int]") -> "Activations":
        """The same measurement for some of the texts."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return replace(self, values=self.values[rows], tokens=tokens)

    def to(self, device: str | torch.device) -> "Activations":
        """The same with its values on another device, where estimators and evaluations then run."""
        return replace(self, values=self.values.to(device))

    def check_finite(self, layers: Sequence[int] | None = None) -> None:
        """Raise `DataError` naming the first text and layer (of some, or all) with a NaN or an infinity."""
        chosen = self.layers if layers is None else layers
        rows = [self.row_of(layer) for layer in chosen]
        bad = ~torch.isfinite(self.values).all(dim=-1)[:, rows]
        if bad.any():
            text, row = bad.nonzero()[0].tolist()
            raise DataError(
                f"activations are not finite: text {text}, layer {chosen[row]}; check that text, "
                "or load the model in float32 (in float64 call model.model.set_attn_implementation('sdpa'))"
            )

    def save(self, path: str | os.PathLike) -> Path:
        """Write values and norms as safetensors, the rest as its metadata; atomic."""
        tensors = {"values": self.values.contiguous()}
        for name, tensor in (("norms", self.norms), ("tokens", self.tokens)):
            if tensor is not None:
                tensors[name] = tensor
        facts = {"layers": list(self.layers), "pool": self.pool, "model": self.model}
        return write_tensors(path, "activations", tensors, facts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Activations":
        """Read what `save` wrote; raises `ArtefactError` for any other file."""
        tensors, facts = read_tensors(path, "activations")
        try:
            return cls(
                tensors["values"],
                tuple(facts["layers"]),
                tensors.get("norms"),
                facts["pool"],
                facts["model"],
                tensors.get("tokens"),
            )
        except (KeyError, DataError) as error:
            raise ArtefactError(
                f"{path} holds no consistent activations ({error}); capture them again"
            ) from error
