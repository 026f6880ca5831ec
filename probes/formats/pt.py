"""Vectors that other projects keep with `torch.save`: three layouts of `.pt` files.

| layout | content | block i |
|---|---|---|
| `persona_vectors` | `[n_layers + 1, d_model]`, from `hidden_states` | row i + 1; row 0 is the embedding |
| `per_layer` (assistant-axis and others) | `[n_layers, d_model]`, bare or under `"axis"` | row i |
| `steering_vectors` | `{"layer_activations": {i: [d_model]}, "layer_type": "decoder_block"}`, the fields of its `SteeringVector` | key i |

The two tables differ by one row, so a model (or its `ModelShape`) must tell how many blocks there are.
The last row of a persona_vectors table was read after the final norm (as `hidden_states` has it there),
and is added before it. Positive multiples push towards the concept in all three; the axis of
assistant-axis points to the assistant and away from the roles.

A `.pt` file is a pickle, which can run any code when it is opened. `torch.load(weights_only=True)`
builds tensors and plain containers and refuses the rest; sizes are checked first.
"""

import io
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from probes.directions import Direction
from probes.errors import ArtefactError, DataError
from probes.files import atomic_path
from probes.formats.vectors import (
    MAX_BYTES,
    Shaped,
    Units,
    as_path,
    check_file,
    check_fit,
    direction_of,
    vectors_of,
)

Layout = Literal["persona_vectors", "per_layer", "steering_vectors"]


def read_pt(path: str | os.PathLike, *, model: Shaped) -> Direction:
    """The direction of a `.pt` file, its lengths in `provenance["lengths"]` and its layout beside them.

    Rows of zeros are absent layers. The row of the embedding has no block and is left out.

    Args:
        model: the model that the vectors belong to, or its `ModelShape`; tells the tables apart.

    Raises:
        ArtefactError: the file is missing, damaged, larger than 1 GiB, or holds anything but tensors,
            numbers, strings and containers of them; its content has none of the three layouts.
        DataError: the vectors do not fit the model.
    """
    path = as_path(path)
    check_file(path)
    content = _load(path)
    if isinstance(content, Mapping) and "layer_activations" in content:
        layout: Layout = "steering_vectors"
        vectors = _from_dictionary(content, path)
    else:
        layout, vectors = _from_table(content, path, model)
    provenance = {"format": f"{layout} .pt"}
    return direction_of(vectors, path, model=model, provenance=provenance)


def write_pt(
    direction: Direction,
    path: str | os.PathLike,
    *,
    layout: Layout,
    model: Shaped,
    strength: float = 1.0,
    units: Units = "residual",
    layers: Sequence[int] | None = None,
) -> Path:
    """Write a direction in another project's layout; atomic.

    A table has a row for every block: those of layers that are not written, and the embedding's, are
    zero, which steers nothing and is read as absent.

    Args:
        layout: "persona_vectors", "per_layer" or "steering_vectors".
        model: the model, or its `ModelShape`; gives a table its rows.
        strength: length of the vectors in `units`; a negative one points away from the concept.
        units: "residual", "raw" or "kept", see `probes.formats.Units`.
        layers: blocks to write. By default all in a table, whose user picks a row, and in
            `steering_vectors`, which acts at all its layers, the selected one if there is one.

    Raises:
        DataError: the layout is unknown, the direction does not fit the model or does not know the
            units, or the strength is zero or not finite.
        LayerError: the direction lacks one of the layers.
        ArtefactError: the file cannot be written.
    """
    if layout not in ("persona_vectors", "per_layer", "steering_vectors"):
        raise DataError(
            f'layout {layout!r} is unknown; use "persona_vectors", "per_layer" or "steering_vectors"'
        )
    if layers is None and layout != "steering_vectors":
        layers = direction.layers
    vectors = vectors_of(direction, layers=layers, strength=strength, units=units)
    check_fit(f"direction {direction.name!r}", direction.d_model, tuple(vectors), model)
    content: Any
    if layout == "steering_vectors":
        content = {"layer_activations": vectors, "layer_type": "decoder_block"}
    else:
        shift = 1 if layout == "persona_vectors" else 0
        content = torch.zeros(model.n_layers + shift, model.d_model)
        for layer, vector in vectors.items():
            content[layer + shift] = vector
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError, a file as an OSError
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return Path(path)


def _load(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > MAX_BYTES:
                raise ArtefactError(f"{path} unpacks to {unpacked / 2**30:.1f} GiB and is not read")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ArtefactError:
        raise
    except Exception as error:  # pickles fail in every way there is
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise ArtefactError(
                f"{path} is a pickle that would call {blocked[1]}; only tensors and containers of them are read. "
                "If you trust it, open it where it was made and save its tensors alone (a SteeringVector as "
                "torch.save(dataclasses.asdict(vector), path))"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtefactError(f"{path} cannot be read as a .pt file ({reason})") from error


def _from_dictionary(content: Mapping, path: Path) -> dict[int, Tensor]:
    kind = content.get("layer_type", "decoder_block")
    if kind != "decoder_block":
        raise ArtefactError(
            f"{path} holds vectors of layer_type {kind!r}; only those of decoder_block are in the residual stream"
        )
    activations = content["layer_activations"]
    if not isinstance(activations, Mapping) or not activations:
        raise ArtefactError(f"{path}: layer_activations must map block indices to vectors")
    for layer, vector in activations.items():
        if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
            raise ArtefactError(
                f"{path}: layer_activations has a key {layer!r}; block indices are 0, 1 …"
            )
        _check_tensor(vector, f"layer_activations[{layer}]", path, ndim=1)
    return dict(activations)


def _from_table(content: Any, path: Path, model: Shaped) -> tuple[Layout, dict[int, Tensor]]:
    if isinstance(content, Mapping) and "axis" in content:
        content = content["axis"]
    _check_tensor(content, "its content", path, ndim=2)
    rows, width = content.shape
    check_fit(str(path), width, [0], model)
    if rows == model.n_layers + 1:
        return "persona_vectors", dict(enumerate(content[1:]))
    if rows == model.n_layers:
        return "per_layer", dict(enumerate(content))
    raise DataError(
        f"{path} has {rows} rows but the model has {model.n_layers} layers; a table has a row for each, "
        "or one more with the embedding first: it was made for another model"
    )


def _check_tensor(value: Any, label: str, path: Path, *, ndim: int) -> None:
    """Raise `ArtefactError` unless `value` is a dense float tensor in memory with `ndim` axes."""
    expected = "a float vector [d_model]" if ndim == 1 else "a float table [row, d_model]"
    if not isinstance(value, Tensor):
        keys = f" with keys {list(value)[:8]}" if isinstance(value, Mapping) else ""
        raise ArtefactError(
            f"{path}: {label} is a {type(value).__name__}{keys}; expected {expected}"
        )
    if value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
        kind = "nested" if value.is_nested else f"{value.layout} tensor on {value.device}"
        raise ArtefactError(
            f"{path}: {label} is not a plain tensor but {kind}; expected {expected}"
        )
    if not value.is_floating_point() or value.ndim != ndim or 0 in value.shape:
        raise ArtefactError(
            f"{path}: {label} is a {value.dtype} tensor of shape {tuple(value.shape)}; expected {expected}"
        )
