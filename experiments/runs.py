"""A run directory: its manifest, its lock, and units of work that are done once."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import filelock

from experiments.claims import as_json
from experiments.config import RunConfig
from probes import ArtefactError
from probes.assets import asset_path
from probes.files import read_json, sha256_file, sha256_json, write_json

LIBRARIES = (
    "storyprior",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
)


class Run:
    """One run's directory.

    Every unit of work leaves one JSON file under `units/`, written when it is complete; a run that
    was killed goes on with the first unit that has none.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder = folder
        self.config = config

    def unit(self, name: str, compute: Callable[[], Any]) -> None:
        """Compute a unit's result, a JSON value, and keep it."""
        started = time.monotonic()
        result = compute()
        write_json(
            self._path(name), {"seconds": round(time.monotonic() - started, 1), "result": result}
        )

    def result(self, name: str) -> Any:
        """The kept result of a unit; always read from its file, so that a resumed run sees the same."""
        return read_json(self._path(name))["result"]

    def is_done(self, name: str) -> bool:
        """Whether a unit's result is there."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self.folder / "units" / f"{name}.json"

    def seconds(self) -> dict[str, float]:
        """How long each finished unit took."""
        units = self.folder / "units"
        paths = [path for path in sorted(units.rglob("*.json")) if not path.name.startswith(".")]
        return {
            path.relative_to(units).with_suffix("").as_posix(): read_json(path)["seconds"]
            for path in paths
        }

    def record_model(self, facts: dict[str, Any]) -> None:
        """Write the model's identity into the manifest, or check that it is the one the run began with.

        Raises:
            ArtefactError: the run was begun with other weights or another dtype.
        """
        manifest = self.manifest()
        known = manifest.get("model")
        if known is None:
            write_json(self.folder / "run.json", {**manifest, "model": facts})
        elif known["identity"] != facts["identity"]:
            raise ArtefactError(
                f"{self.folder} was begun with another version of {facts['name']} (other weights, tokenizer or "
                "dtype); choose another --out"
            )

    def manifest(self) -> dict[str, Any]:
        """The contents of run.json."""
        return read_json(self.folder / "run.json")

    def finish(self) -> None:
        """Write into the manifest how long each unit took."""
        write_json(self.folder / "run.json", {**self.manifest(), "seconds": self.seconds()})


@contextmanager
def open_run(folder: Path, config: RunConfig) -> Iterator[Run]:
    """Begin a run in `folder`, or go on with one of the same configuration, alone.

    Raises:
        ArtefactError: the folder holds a run of another configuration, other assets or claims, or
            something that is no run; another process is working in it; or it cannot be written.
    """
    fresh: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "hashes": {
            "config": sha256_json(config.model_dump(mode="json")),
            **asset_hashes(),
            **_own_files(config),
        },
        "claims": as_json(),
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    fresh["hashes"]["claims"] = sha256_json(fresh["claims"])
    manifest = folder / "run.json"
    lock = filelock.FileLock(folder / ".lock")
    try:
        # What a killed write leaves behind begins with a dot and is nobody's.
        strangers = folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir())
        if strangers and not manifest.exists():
            raise ArtefactError(f"{folder} is not empty and holds no run; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ArtefactError(
            f"another process is working in {folder}; wait for it or choose another --out"
        ) from error
    except OSError as error:
        raise ArtefactError(
            f"cannot write {folder}: {error.strerror}; choose another --out"
        ) from error
    try:
        if not manifest.exists():
            write_json(manifest, fresh)
        _check_same(read_json(manifest), fresh, folder)
        yield Run(folder, config)
    finally:
        lock.release()


def _check_same(found: dict[str, Any], fresh: dict[str, Any], folder: Path) -> None:
    try:
        before, after = found["hashes"], fresh["hashes"]
    except (KeyError, TypeError) as error:
        raise ArtefactError(
            f"{folder}/run.json is no manifest of a run; choose another --out"
        ) from error
    for library in ("torch", "transformers", "trl", "peft"):
        was, now = found["versions"].get(library), fresh["versions"][library]
        if was != now:
            raise ArtefactError(
                f"{folder} was begun with {library} {was} and this is {now}, which may give other figures; "
                "install that version or choose another --out"
            )
    for name in after:
        if before.get(name) == after[name]:
            continue
        if name == "config":
            changed = [
                key for key, value in fresh["config"].items() if found["config"].get(key) != value
            ]
            raise ArtefactError(
                f"{folder} holds a run of another configuration ({', '.join(changed)} differ); choose another --out"
            )
        raise ArtefactError(
            f"{folder} was begun with another version of {name}; choose another --out"
        )


def _own_files(config: RunConfig) -> dict[str, str]:
    """sha256 of the contrast files that the configuration gives by path."""
    names = (config.contrasts.name, config.contrasts.harder)
    paths = [Path(name) for name in names if name is not None and name.endswith(".jsonl")]
    return {path.name: sha256_file(path) for path in paths if path.is_file()}


def asset_hashes() -> dict[str, str]:
    """sha256 of every shipped text that a run reads."""
    root = asset_path()
    kinds = ("contrasts", "honeypots", "character", "neutral", "corpora")
    paths = sorted(path for kind in kinds for path in asset_path(kind).rglob("*") if path.is_file())
    return {f"assets/{path.relative_to(root).as_posix()}": sha256_file(path) for path in paths}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that figures depend on."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed as a package"
    return found
