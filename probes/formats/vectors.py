"""What the file formats share: vectors of any length in a file ↔ a `Direction` of unit vectors.

A steering file holds vectors whose lengths matter; a `Direction` is of unit norm. Reading keeps the
lengths in `provenance["lengths"]`, one per layer; writing takes them from one of three `Units`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from probes.directions import Direction
from probes.errors import ArtefactError, DataError, LayerError

MAX_BYTES = 2**30
"""Files above one gibibyte are refused unread: 100 layers of width 16384 take 7 MB."""

Units = Literal["residual", "raw", "kept"]
"""Length of a written vector per unit of strength: the mean residual norm of its layer
(`direction.norms`), 1, or the length it had in the file that it was read from."""


class Shaped(Protocol):
    """What a file is checked against: a `LanguageModel`, or a `ModelShape` where none is loaded."""

    @property
    def n_layers(self) -> int:
        """Number of blocks."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Number of blocks and width of the residual stream of a model that is not in memory."""

    n_layers: int
    d_model: int


def check_file(path: Path) -> None:
    """Raise `ArtefactError` unless `path` is a file of at most `MAX_BYTES`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ArtefactError(f"cannot read {path}: {error.strerror}") from error
    if not path.is_file():
        raise ArtefactError(f"{path} is not a file")
    if size > MAX_BYTES:
        raise ArtefactError(
            f"{path} takes {size / 2**30:.1f} GiB; a file of steering vectors takes megabytes, and more than "
            f"{MAX_BYTES / 2**30:.0f} GiB is not read: is it a model?"
        )


def direction_of(
    vectors: Mapping[int, Tensor],
    path: Path,
    *,
    model: Shaped | None = None,
    name: str = "",
    provenance: Mapping[str, object],
) -> Direction:
    """The direction that a file's vectors point in, with their lengths in its provenance.

    Args:
        vectors: block index → `[d_model]`, of any float dtype; a vector of zeros counts as absent.

    Raises:
        ArtefactError: no vector but zeros; one that is not finite; widths that differ.
        DataError: the model has another width, or lacks one of the layers.
    """
    widths = sorted({len(vector) for vector in vectors.values()})
    if len(widths) > 1:
        raise ArtefactError(f"{path} mixes vectors of widths {widths}: it belongs to no one model")
    # Sums of squares of float32 values may leave the range of float32; those of float64 do not.
    wide = {layer: vectors[layer].detach().double() for layer in sorted(vectors)}
    lengths = {layer: float(vector.norm()) for layer, vector in wide.items()}
    for layer, length in lengths.items():
        if not math.isfinite(length):
            raise ArtefactError(f"{path}: the vector of layer {layer} is not finite; make it again")
    layers = tuple(layer for layer, length in lengths.items() if length > 0)
    if not layers:
        raise ArtefactError(f"{path} holds no vector other than zeros; make it again")
    if model is not None:
        check_fit(str(path), widths[0], layers, model)
    return Direction.from_vectors(
        torch.stack([wide[layer] / lengths[layer] for layer in layers]),
        layers,
        layer=layers[0] if len(layers) == 1 else None,
        name=name or path.stem,
        provenance={
            **provenance,
            "file": path.name,
            "lengths": [lengths[layer] for layer in layers],
        },
    )


def check_fit(what: str, d_model: int, layers: Sequence[int], model: Shaped) -> None:
    """Raise `DataError` when vectors of this width and these layers cannot be the model's."""
    if d_model != model.d_model:
        raise DataError(
            f"{what} has width {d_model} but the model has {model.d_model}; it was made for another model"
        )
    if max(layers) >= model.n_layers:
        raise DataError(
            f"{what} has layer {max(layers)} but the model has layers 0 to {model.n_layers - 1}; "
            "it was made for another model"
        )


def vectors_of(
    direction: Direction, *, layers: Sequence[int] | None, strength: float, units: Units
) -> dict[int, Float[Tensor, " d_model"]]:
    """What to write: block index → `strength × unit × vector`, float32, layers in ascending order.

    Args:
        layers: blocks to write; by default the selected one, or all where none is selected.

    Raises:
        DataError: the strength is zero or not finite; units are unknown or the direction lacks
            them; a length is out of the range of float32.
        LayerError: no layer is given, one twice, or one that the direction has not.
    """
    if isinstance(strength, bool) or not math.isfinite(strength) or strength == 0:
        raise DataError(f"strength {strength!r} must be a finite number other than zero")
    if layers is None:
        layers = direction.layers if direction.layer is None else (direction.layer,)
    if not layers or len(set(layers)) != len(layers):
        raise LayerError(f"layers {list(layers)} must be at least one index, each once")
    per_row = _unit_lengths(direction, units)
    written = {}
    for layer in sorted(layers):
        row = direction.row_of(layer)
        vector = (direction.vectors[row].double() * (strength * per_row[row])).float()
        if not torch.isfinite(vector).all() or not vector.any():
            raise DataError(
                f"direction {direction.name!r}: its vector at layer {layer} would have the length "
                f"{strength * per_row[row]:g}, which float32 cannot hold; change strength or units"
            )
        written[layer] = vector
    return written


def _unit_lengths(direction: Direction, units: Units) -> list[float]:
    """Length of one unit of strength at each of the direction's layers."""
    if units == "raw":
        return [1.0] * len(direction.layers)
    if units == "residual":
        if direction.norms is None:
            raise DataError(
                f'direction {direction.name!r} does not know the residual norms; use units="raw" or units="kept", '
                "or set its norms from the activations of the model"
            )
        return direction.norms.tolist()
    if units == "kept":
        lengths: Any = direction.provenance.get("lengths")
        known = isinstance(lengths, list) and all(isinstance(length, float) for length in lengths)
        if not known or len(lengths) != len(direction.layers):
            raise DataError(
                f"direction {direction.name!r} was not read from a file that gives its vectors lengths; "
                'use units="residual" or units="raw"'
            )
        return lengths
    raise DataError(f'units {units!r} are unknown; use "residual", "raw" or "kept"')


def as_path(path: str | os.PathLike) -> Path:
    """The path as a `Path`, `~` expanded."""
    return Path(path).expanduser()
