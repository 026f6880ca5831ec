"""`Direction`: one unit vector per layer that points to where a concept is present."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import Activations
from probes.artefacts import read_tensors, write_tensors
from probes.errors import ArtefactError, DataError, LayerError


@dataclass(frozen=True, slots=True)
class Direction:
    """A concept's direction in the residual stream.

    Attributes:
        vectors: `[layer, d_model]`, float32, each of unit Euclidean norm; a positive projection
            means that the concept is present.
        layers: block index of each row.
        scales: `[layer]`, standard deviation of the projections of the activations it was fitted on.
        norms: `[layer]` or `None`, mean norm of one token's residual vector there: the unit of
            steering strengths.
        layer: the selected layer, if one was selected.
        name: the concept.
        provenance: JSON facts about its making: estimator, pooling, model identity …
    """

    vectors: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    scales: Float[Tensor, " layer"]
    norms: Float[Tensor, " layer"] | None = None
    layer: int | None = None
    name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.shape[0] != len(self.layers) or not self.layers:
            raise DataError(
                f"direction vectors of shape {tuple(self.vectors.shape)} do not fit {len(self.layers)} layers; "
                "expected [layer, d_model]"
            )
        for label, values in (("scales", self.scales), ("norms", self.norms)):
            if values is not None and values.shape != (len(self.layers),):
                raise DataError(
                    f"direction {label} of shape {tuple(values.shape)} must have one value per layer"
                )
        if not torch.isfinite(self.vectors).all():
            raise DataError(
                f"direction {self.name!r} is not finite; check the activations it was made from"
            )
        lengths = self.vectors.norm(dim=-1)
        if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-4):
            raise DataError(
                f"direction {self.name!r} is not of unit norm; use Direction.from_vectors"
            )
        if self.layer is not None and self.layer not in self.layers:
            raise LayerError(
                f"selected layer {self.layer} is not among the direction's layers {list(self.layers)}"
            )

    @classmethod
    def from_vectors(
        cls, vectors: Float[Tensor, "layer d_model"], layers: tuple[int, ...], **facts: Any
    ) -> "Direction":
        """A direction from vectors of any non-zero length; `scales` default to 1.

        Raises:
            DataError: a vector is zero or not finite.
        """
        vectors = vectors.detach().float().cpu()
        lengths = vectors.norm(dim=-1, keepdim=True)
        if not torch.isfinite(lengths).all() or (lengths == 0).any():
            raise DataError(
                "a direction's vector is zero or not finite: the two classes do not differ there"
            )
        scales = facts.pop("scales", None)
        return cls(
            vectors / lengths,
            tuple(layers),
            torch.ones(len(layers)) if scales is None else scales.float(),
            **facts,
        )

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.vectors.shape[1]

    @property
    def selected_layer(self) -> int:
        """The selected layer; raises `LayerError` when none was selected."""
        if self.layer is None:
            raise LayerError(
                f"direction {self.name!r} has no selected layer; choose one with at_layer({self.layers[0]})"
            )
        return self.layer

    def row_of(self, layer: int) -> int:
        """Row of a block index; raises `LayerError` when the direction has none there."""
        if layer not in self.layers:
            raise LayerError(
                f"direction {self.name!r} has no layer {layer}; it holds {list(self.layers)}"
            )
        return self.layers.index(layer)

    def at(self, layer: int) -> Float[Tensor, " d_model"]:
        """The unit vector at one block."""
        return self.vectors[self.row_of(layer)]

    def project(self, acts: Activations) -> Float[Tensor, "text layer"]:
        """Inner products ⟨h, u⟩ at the direction's layers, in its order of layers.

        Raises:
            LayerError: the activations lack one of the layers.
            DataError: the widths differ, or an activation at one of the layers is not finite.
        """
        if acts.values.shape[-1] != self.d_model:
            raise DataError(
                f"direction {self.name!r} has width {self.d_model} but the activations have "
                f"{acts.values.shape[-1]}; they come from another model"
            )
        acts.check_finite(self.layers)
        values = acts.values[:, [acts.row_of(layer) for layer in self.layers]]
        return torch.einsum("tld,ld->tl", values, self.vectors.to(values.device)).cpu()

    def at_layer(self, layer: int) -> "Direction":
        """The same direction with another selected layer."""
        return replace(self, layer=layer)

    def save(self, path: str | os.PathLike) -> Path:
        """Write as safetensors with a checksum; atomic."""
        tensors = {"vectors": self.vectors, "scales": self.scales}
        if self.norms is not None:
            tensors["norms"] = self.norms
        facts = {
            "layers": list(self.layers),
            "layer": self.layer,
            "name": self.name,
            "provenance": dict(self.provenance),
        }
        return write_tensors(path, "direction", tensors, facts)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Direction":
        """Read what `save` wrote; raises `ArtefactError` for a corrupt file or one of another kind."""
        tensors, facts = read_tensors(path, "direction")
        try:
            return cls(
                tensors["vectors"],
                tuple(facts["layers"]),
                tensors["scales"],
                tensors.get("norms"),
                facts["layer"],
                facts["name"],
                facts["provenance"],
            )
        except (KeyError, TypeError, DataError, LayerError) as error:
            raise ArtefactError(
                f"{path} holds no consistent direction ({error}); make it again"
            ) from error


def random_direction(like: Direction, *, seed: int) -> Direction:
    """A direction drawn uniformly from the sphere at every layer, with the layers and norms of `like`."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(like.vectors.shape, generator=generator)
    return Direction.from_vectors(
        vectors,
        like.layers,
        norms=like.norms,
        layer=like.layer,
        name=f"random-{seed}",
        provenance={"method": "uniform on the sphere", "seed": seed},
    )
