"""Files that are either complete or absent: atomic writes, checksums, JSON and JSON Lines."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from probes.errors import ArtefactError, DataError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place only if the block succeeds.

    Readers see the old file or the new one, never a part of either. A full disk or an unwritable
    folder raises `ArtefactError` and leaves no temporary file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes files private
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtefactError(
            f"cannot write {path}: {reason}; free some space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write UTF-8 text atomically; returns the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write a JSON value atomically, keys in the order given; NaN raises `DataError`."""
    try:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise DataError(
            f"{path}: a figure is NaN or infinite; the model's output is: try dtype float32, or a "
            "lower learning rate"
        ) from error
    return write_text(path, text + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; raises `ArtefactError` naming the file when it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtefactError(
            f"{path} cannot be read as JSON ({error}); delete it and make it again"
        ) from error


def read_jsonl(path: str | os.PathLike) -> list[tuple[int, dict]]:
    """Line numbers (from 1) and objects of a JSON Lines file; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object (file and line are named).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{number}: not valid JSON ({error.msg}); write one object per line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append((number, row))
    return rows


Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: str | os.PathLike, schema: type[Row]) -> list[Row]:
    """The rows of a JSON Lines file, each validated by a pydantic schema.

    Raises:
        DataError: a row is malformed (file, line and field are named), or there is none.
    """
    rows = []
    for number, raw in read_jsonl(path):
        try:
            rows.append(schema.model_validate(raw))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise DataError(f"{path}:{number}: {where}: {first['msg']}") from error
    if not rows:
        raise DataError(f"{path} has no rows; write one JSON object per line")
    return rows


def sha256_file(path: str | os.PathLike) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()
