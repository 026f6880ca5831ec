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

FORMAT = 1


def write_tensors(
    path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> Path:
    """Write tensors atomically with `facts` (JSON values) and a checksum of the tensors in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "storyprior": json.dumps(
            {"kind": kind, "format": FORMAT, **facts}, sort_keys=True, allow_nan=False
        ),
        "sha256": _checksum(tensors),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
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
        found, version = facts["kind"], facts["format"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{path} was not written by storyprior: its metadata lacks a description"
        ) from error
    if found != kind or version > FORMAT:
        raise ArtefactError(
            f"{path} holds {found!r} (format {version}); expected {kind!r} (format {FORMAT})"
        )
    if metadata.get("sha256") != _checksum(tensors):
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
