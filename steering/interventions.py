"""What to do to the residual stream, and at which layers: `Add` and `Ablate`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from probes import DataError, Direction
from steering import operators

Edit = Callable[[Tensor], Tensor]
"""A map of the residual stream `[…, d_model]` to itself."""


@runtime_checkable
class Intervention(Protocol):
    """Anything `steer` can apply; a class of your own needs just these three."""

    @property
    def at_layers(self) -> tuple[int, ...]:
        """Blocks whose output is edited."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream it was made for."""

    def edit_at(self, layer: int, device: torch.device) -> Edit:
        """The edit at one of these layers, its constants on `device`."""


@dataclass(frozen=True, slots=True)
class Add:
    """Add a multiple of a direction: positive strengths push towards the concept.

    Attributes:
        direction: unit vectors per layer.
        strength: in `units`.
        units: "residual", a fraction of the mean residual norm at the layer (`direction.norms`), or
            "raw", the length of the vector that is added.
        layers: blocks to act on; by default the direction's selected layer alone, since one push
            repeated at every layer adds up to an unknown dose.

    Raises:
        DataError: the strength is not finite; units are unknown; "residual" without norms; no layer
            is given or selected.
        LayerError: the direction has no vector at one of the layers.
    """

    direction: Direction
    strength: float = 0.1
    units: Literal["residual", "raw"] = "residual"
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.strength, bool) or not math.isfinite(self.strength):
            raise DataError(f"strength {self.strength!r} is not a finite number")
        if self.units not in ("residual", "raw"):
            raise DataError(f'units {self.units!r} are unknown; use "residual" or "raw"')
        if self.units == "residual" and self.direction.norms is None:
            raise DataError(
                f'direction {self.direction.name!r} does not know the residual norms; use units="raw", '
                "or set its norms from the activations of the model"
            )
        if self.layers is None and self.direction.layer is None and len(self.direction.layers) > 1:
            raise DataError(
                f"direction {self.direction.name!r} has {len(self.direction.layers)} layers and none selected; pass layers=[…]"
            )
        _check_layers(self.direction, self.at_layers)

    @property
    def at_layers(self) -> tuple[int, ...]:
        """Blocks whose output is edited."""
        if self.layers is not None:
            return tuple(self.layers)
        return self.direction.layers if self.direction.layer is None else (self.direction.layer,)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.direction.d_model

    def edit_at(self, layer: int, device: torch.device) -> Edit:
        """Adds `strength × unit` times the vector of this layer."""
        norms = self.direction.norms if self.units == "residual" else None
        unit = 1.0 if norms is None else float(norms[self.direction.row_of(layer)])
        vector = (self.direction.at(layer) * (self.strength * unit)).to(device)
        return lambda hidden: operators.add(hidden, vector)


@dataclass(frozen=True, slots=True)
class Ablate:
    """Remove a direction's component: the stream can no longer vary along it.

    Attributes:
        direction: unit vectors per layer; each layer loses the component along its own vector.
        layers: blocks to act on; by default all of the direction's, since later blocks could write
            the component anew.

    Raises:
        LayerError: the direction has no vector at one of the layers.
    """

    direction: Direction
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _check_layers(self.direction, self.at_layers)

    @property
    def at_layers(self) -> tuple[int, ...]:
        """Blocks whose output is edited."""
        return self.direction.layers if self.layers is None else tuple(self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.direction.d_model

    def edit_at(self, layer: int, device: torch.device) -> Edit:
        """Projects out the vector of this layer."""
        unit = self.direction.at(layer).to(device)
        return lambda hidden: operators.project_out(hidden, unit)


def _check_layers(direction: Direction, layers: Sequence[int]) -> None:
    if not layers:
        raise DataError("an intervention needs at least one layer; layers is empty")
    for layer in layers:
        direction.row_of(layer)
