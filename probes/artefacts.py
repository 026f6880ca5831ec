"""The one file format of our artefacts: safetensors, with a JSON description in its metadata."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probes.errors import ArtefactError
from probes.files import atomic_path

FORMAT = 2


def write_tensors(
    path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> Path:
    """Write tensors atomically with `facts` (JSON values) and a checksum of the tensors in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {"kind": kind, "format": FORMAT, "sha256": _checksum(tensors), **facts}
    # One entry: safetensors writes several in random order, and the same bytes are wanted each time.
    entry = json.dumps(described, sort_keys=True, allow_nan=False)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"storyprior": entry})
    return Path(path)


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file that `write_tensors` wrote.

    Raises:
        ArtefactError: the file is missing, is not safetensors, is of another kind or a newer
            format, or its tensors do not match their checksum.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} does not exist") from error
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"{path} is not a readable safetensors file ({error}); make it again"
        ) from error
    try:
        facts = json.loads(metadata["storyprior"])
        found, version, checksum = facts["kind"], facts["format"], facts.get("sha256")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{path} was not written by storyprior: its metadata lacks a description"
        ) from error
    if found != kind or version != FORMAT:
        raise ArtefactError(
            f"{path} holds {found!r} (format {version}); expected {kind!r} (format {FORMAT})"
        )
    if checksum != _checksum(tensors):
        raise ArtefactError(
            f"{path} is corrupt: its tensors do not match their checksum; make it again"
        )
    return tensors, facts


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
