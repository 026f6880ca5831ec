"""Control vectors of llama.cpp and repeng: GGUF files of architecture `controlvector`.

Keys `controlvector.model_hint` (string) and `controlvector.layer_count` (uint32, the number of
vectors); tensors `direction.N`, float32, `[d_model]`. llama.cpp adds SCALE × `direction.N` to the
output of block N, counted from 0, at every token (`build_cvec` stands after the block's last
residual addition and before the final norm; read in the sources, and measured by
tests/test_llama_cpp.py). So `direction.N` is our layer N: there is no shift.

- `direction.0` does not exist for llama.cpp: it drops a file that has one, with a line in its log,
  and may go on unsteered. repeng writes none by default, though its own format allows it; we read it
  and do not write it.
- repeng numbers as we do: its vector N comes from `hidden_states[N + 1]` and is added to the output
  of block N. Its vector of the last block was read after the final norm and is added before it.
- `llama-cvector-generator` numbers the mean difference of block i's output `direction.(i + 1)`: it
  is read from one block and added to the next. A file tells where vectors act, and that is what we
  read, so its layers lie one above the blocks that they were read from.
- llama.cpp adds the vector at the BOS too; `steering.steer` spares it.

Positive scales push towards the concept. Several layers in one file act all at once.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.directions import Direction
from probes.errors import ArtefactError, DataError, LayerError
from probes.files import atomic_path
from probes.formats.vectors import Shaped, Units, as_path, check_file, direction_of, vectors_of

ARCHITECTURE = "controlvector"


def write_control_vector(
    direction: Direction,
    path: str | os.PathLike,
    *,
    model_hint: str,
    strength: float = 1.0,
    units: Units = "residual",
    layers: Sequence[int] | None = None,
) -> Path:
    """Write a direction for `llama-server --control-vector-scaled FILE:SCALE`; atomic.

    With the default strength, SCALE is a strength as in `steering.Add`: a fraction of the mean
    residual norm.

    Args:
        model_hint: the model's architecture, such as "llama"; readers show it and check nothing.
        strength: length of the vectors in `units`; a negative one points away from the concept.
        units: "residual", "raw" or "kept", see `probes.formats.Units`.
        layers: blocks to write; by default the selected one, or all where none is selected.

    Raises:
        LayerError: layer 0 is among them, which llama.cpp cannot steer, or one is missing.
        DataError: the strength is zero or not finite, the direction does not know the units, or the
            hint is empty.
        ArtefactError: the file cannot be written.
    """
    import gguf

    if not model_hint:
        raise DataError('model_hint is empty; give the architecture of the model, such as "llama"')
    vectors = vectors_of(direction, layers=layers, strength=strength, units=units)
    if 0 in vectors:
        others = [layer for layer in vectors if layer != 0]
        raise LayerError(
            f"direction {direction.name!r}: llama.cpp cannot steer layer 0 and drops a file that has it; "
            + (f"pass layers={others}" if others else "choose a later layer")
        )
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        try:
            if direction.name:
                writer.add_name(direction.name)
            writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
            for layer, vector in vectors.items():
                writer.add_tensor(f"direction.{layer}", vector.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return Path(path)


def read_control_vector(path: str | os.PathLike, *, model: Shaped | None = None) -> Direction:
    """The direction of a GGUF control vector, its lengths in `provenance["lengths"]`.

    Writing it again with `units="kept"` gives the same tensors. Layers that the file leaves out or
    fills with zeros are absent. float16 tensors are taken too, though llama.cpp takes only float32.

    Args:
        model: if given, the model that the vectors must fit.

    Raises:
        ArtefactError: the file is missing, cut short, larger than 1 GiB, no GGUF file or that of a
            model; it holds no vector, or one that is not finite, not of one axis, or quantised.
        DataError: the model has another width or fewer layers.
    """
    path = as_path(path)
    check_file(path)
    reader = _open(path)
    architecture = _text(reader, "general.architecture")
    if architecture != ARCHITECTURE:
        raise ArtefactError(
            f"{path} is a GGUF file of architecture {architecture!r}, a model perhaps; a control vector's is {ARCHITECTURE!r}"
        )
    vectors: dict[int, Tensor] = {}
    for tensor in reader.tensors:
        layer = _layer_of(tensor.name, path)
        if layer in vectors:
            raise ArtefactError(f"{path} holds two vectors of layer {layer}; make it again")
        vectors[layer] = _vector(tensor, path)
    if not vectors:
        raise ArtefactError(f"{path} holds no direction.N tensor; make it again")
    return direction_of(
        vectors,
        path,
        model=model,
        name=_text(reader, "general.name"),
        provenance={
            "format": "llama.cpp control vector",
            "model_hint": _text(reader, f"{ARCHITECTURE}.model_hint"),
        },
    )


def _open(path: Path) -> Any:
    import gguf

    class Reader(gguf.GGUFReader):
        """Stops where the file does; the parent would go on to count entries that are not there."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *rest: Any, **named: Any) -> Any:
            values = super()._get(offset, dtype, count, *rest, **named)
            if len(values) < count:
                raise ValueError("it ends early")
            return values

    try:
        return Reader(path)
    except Exception as error:  # gguf raises bare ValueError, KeyError, IndexError …
        raise ArtefactError(
            f"{path} cannot be read as a GGUF file ({error}); get a fresh copy"
        ) from error


def _text(reader: Any, key: str) -> str:
    """The string under a key; empty where there is none, or one that is no UTF-8."""
    field = reader.get_field(key)
    try:
        value = None if field is None else field.contents()
    except UnicodeDecodeError:
        value = None
    return value if isinstance(value, str) else ""


def _layer_of(name: str, path: Path) -> int:
    found = re.fullmatch(r"direction\.(0|[1-9][0-9]{0,5})", name)
    if found is None:
        raise ArtefactError(
            f"{path} holds a tensor {name!r}; a control vector's are named direction.1, direction.2 …"
        )
    return int(found[1])


def _vector(tensor: Any, path: Path) -> Tensor:
    import gguf

    readable = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    if tensor.tensor_type not in readable or tensor.data.ndim != 1 or not len(tensor.data):
        raise ArtefactError(
            f"{path}: {tensor.name} is {tensor.tensor_type.name} of shape {tensor.shape.tolist()}; "
            "expected F32 (or F16) of shape [d_model]"
        )
    return torch.from_numpy(tensor.data.astype("float32"))  # a copy, in the machine's byte order
