"""Direction files of this and other tools, told apart by content: `read_direction`."""

import os

from probes.directions import Direction
from probes.errors import ArtefactError, DataError
from probes.formats.control_vectors import read_control_vector, write_control_vector
from probes.formats.pt import Layout, read_pt, write_pt
from probes.formats.vectors import ModelShape, Shaped, Units, as_path, check_file, check_fit

__all__ = [
    "Layout",
    "ModelShape",
    "Shaped",
    "Units",
    "read_control_vector",
    "read_direction",
    "read_pt",
    "write_control_vector",
    "write_pt",
]


def read_direction(path: str | os.PathLike, *, model: Shaped | None = None) -> Direction:
    """The direction in a file of ours (`Direction.save`), a GGUF control vector or a `.pt` file.

    The first bytes tell the format; the name is not looked at.

    Args:
        model: the model that the direction must fit, or its `ModelShape`; a `.pt` file needs it, for
            only the number of blocks tells what its rows are.

    Raises:
        ArtefactError: the file is missing, damaged or of no known format.
        DataError: the direction does not fit the model, or none is given for a `.pt` file.
    """
    path = as_path(path)
    check_file(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if start.startswith(b"GGUF"):
        return read_control_vector(path, model=model)
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, or a pickle of before torch 1.6
        if model is None:
            raise DataError(
                f"{path} is a .pt file: pass model= (or probes.formats.ModelShape), since its rows may or may "
                "not start with the embedding"
            )
        return read_pt(path, model=model)
    if start[8:] == b"{":  # safetensors: the length of a header, then its JSON
        direction = Direction.load(path)
        if model is not None:
            check_fit(str(path), direction.d_model, direction.layers, model)
        return direction
    raise ArtefactError(
        f"{path} is neither a direction of ours nor a GGUF control vector nor a .pt file"
    )
