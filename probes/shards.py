"""`StoredActivations`: activations in a folder of shards, of which only what is asked for is read."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from probes.activations import Activations
from probes.errors import ArtefactError, DataError, LayerError
from probes.files import read_json, sha256_file, sha256_json

MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Facts(_Record):
    """Everything the values depend on; its hash, `key`, names the folder.

    Attributes:
        model: identity of the model.
        dtype: of its weights.
        template: hash of the chat template.
        tokenizer: hash of the ids it gives for one fixed sentence.
        texts: hash of the texts as the model reads them, in order.
        rows: how many texts.
        d_model: width of the residual stream.
        layers: block indices in the order of the layer axis.
        pool: the pooling, with all that it is told.
    """

    format: Literal[2] = 2
    model: str
    dtype: str
    template: str
    tokenizer: str
    texts: str
    rows: PositiveInt
    d_model: PositiveInt
    layers: tuple[int, ...]
    pool: str

    @property
    def key(self) -> str:
        """Hex sha256 of all the facts."""
        return sha256_json(self.model_dump(mode="json"))


class ShardFile(_Record):
    """Size and hex sha256 of a shard's file."""

    bytes: PositiveInt
    sha256: str


class Manifest(_Record):
    """What a folder of shards holds. `norms` is filled in when the last shard is there (null: not finite)."""

    key: str
    facts: Facts
    shard_texts: PositiveInt
    pool: str = ""
    shards: dict[str, ShardFile] = {}
    norms: tuple[float | None, ...] | None = None

    @property
    def names(self) -> list[str]:
        """File names of all shards there will be, in the order of the texts."""
        return [name_of(k) for k in range(math.ceil(self.facts.rows / self.shard_texts))]

    def rows_of(self, shard: int) -> tuple[int, int]:
        """First text of a shard, and the one after its last."""
        return shard * self.shard_texts, min((shard + 1) * self.shard_texts, self.facts.rows)

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        if self.key != self.facts.key:
            raise ValueError("its key is not the hash of its facts")
        if self.norms is not None and (
            len(self.norms) != len(self.facts.layers) or set(self.shards) != set(self.names)
        ):
            raise ValueError("its shards or norms are not those of its texts and layers")
        return self


def name_of(shard: int) -> str:
    """File name of a shard, counted from 0."""
    return f"{shard:06d}.safetensors"


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder; raises `ArtefactError` when it is missing, damaged or of another format."""
    path = folder / MANIFEST
    raw = read_json(path)
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise ArtefactError(
            f"{path}: {where}: {first['msg']}; delete {folder} and capture again"
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class StoredActivations:
    """Pooled activations on disk, as `capture_to_disk` leaves them; get one from it or from `open`.

    Estimators take one layer at a time: `probes.fit(stored.load(layers=[k]), labels)`.
    """

    folder: Path
    manifest: Manifest = field(repr=False)
    verify: bool = True
    _verified: set[str] = field(default_factory=set, init=False, repr=False)

    @classmethod
    def open(cls, folder: str | os.PathLike, *, verify: bool = True) -> "StoredActivations":
        """Open a finished folder: its manifest is read, and all its shards are there in full size.

        Args:
            folder: the folder named by a key, `.folder` of what `capture_to_disk` returned.
            verify: compare each shard with its checksum when it is first read, so that opening
                costs nothing; `False` trusts the disk.

        Raises:
            ArtefactError: the folder holds no finished capture, or a shard is missing or truncated.
        """
        home = Path(folder)
        if not (home / MANIFEST).is_file():
            raise ArtefactError(
                f"{home} holds no stored activations ({MANIFEST} is missing); pass the `.folder` of "
                "what capture_to_disk returned"
            )
        manifest = read_manifest(home)
        if manifest.norms is None:
            raise ArtefactError(
                f"{home} is unfinished: {len(manifest.shards)} of {len(manifest.names)} shards; call "
                "capture_to_disk with the same arguments to finish it"
            )
        for name, shard in manifest.shards.items():
            path = home / name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes, not {shard.bytes}"
                raise ArtefactError(f"{path} {found}; {_AGAIN}")
        return cls(home, manifest, verify)

    def __len__(self) -> int:
        return self.manifest.facts.rows

    @property
    def layers(self) -> tuple[int, ...]:
        """The block index of each entry of the layer axis."""
        return self.manifest.facts.layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.manifest.facts.d_model

    @property
    def pool(self) -> str:
        """How tokens became one vector."""
        return self.manifest.pool

    @property
    def model(self) -> str:
        """Identity of the model they were captured from."""
        return self.manifest.facts.model

    @property
    def norms(self) -> Float[Tensor, " layer"]:
        """Mean Euclidean norm of one token's residual vector over all texts, as in `Activations`."""
        norms = self.manifest.norms or ()
        return torch.tensor(
            [math.nan if norm is None else norm for norm in norms], dtype=torch.float32
        )

    def load(
        self,
        layers: int | Sequence[int] | None = None,
        rows: "slice | Sequence[int] | Tensor | None" = None,
    ) -> Activations:
        """Some of the activations in memory: `values` `[text, layer, d_model]`, float32.

        Args:
            layers: block indices, in any order; all if not given.
            rows: which texts, as an index into a tensor: a slice, integers or a mask; all if not given.

        Returns:
            `Activations` whose `norms` are those of all stored texts.

        Raises:
            LayerError: a layer was not captured.
            DataError: a row is not there.
            ArtefactError: a shard that is needed is missing, truncated or does not match its checksum.
        """
        asked = (layers,) if isinstance(layers, int) else layers
        chosen = self.layers if asked is None else tuple(asked)
        for layer in chosen:
            if layer not in self.layers:
                raise LayerError(
                    f"layer {layer} was not captured; {self.folder} holds layers {list(self.layers)}"
                )
        columns = torch.tensor([self.layers.index(layer) for layer in chosen], dtype=torch.long)
        picked = self._picked(rows)
        values = torch.empty(len(picked), len(chosen), self.d_model)
        tokens = torch.empty(len(picked), dtype=torch.long)
        owner = picked // self.manifest.shard_texts
        order = owner.argsort(stable=True)
        shards, counts = owner[order].unique_consecutive(return_counts=True)
        for shard, places in zip(shards.tolist(), order.split(counts.tolist()), strict=True):
            local = picked[places] - self.manifest.rows_of(shard)[0]
            with self._opened(shard) as (stored, hashes):
                first, last = int(local.min()), int(local.max())
                # A view of the mapped file: indexing it reads the pages of these rows and layers.
                values[places] = stored[first : last + 1][(local - first)[:, None], columns]
                tokens[places] = hashes[local]
        return Activations(values, chosen, self.norms[columns], self.pool, self.model, tokens)

    def batches(
        self, size: int, layers: int | Sequence[int] | None = None
    ) -> Iterator[Activations]:
        """The texts in order, `size` at a time, as `load` gives them; raises as `load`."""
        if size < 1:
            raise DataError(f"batches of {size} texts were asked for; pass a size of at least 1")
        for start in range(0, len(self), size):
            yield self.load(layers, slice(start, start + size))

    def _picked(self, rows: Any) -> Int[Tensor, " text"]:
        if rows is None or isinstance(rows, slice):
            run = range(*(rows or slice(None)).indices(len(self)))
            return torch.arange(len(run)) * run.step + run.start
        try:
            index = torch.as_tensor(rows if isinstance(rows, Tensor) else list(rows))
            if index.numel() == 0:
                index = index.long()
            if index.ndim != 1 or index.is_floating_point():
                raise IndexError("rows must be a slice, a list of integers or a mask")
            return torch.arange(len(self))[index]
        except (IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"these rows are not among the {len(self)} stored texts: {error}"
            ) from error

    @contextlib.contextmanager
    def _opened(self, shard: int) -> Iterator[tuple[Any, Tensor]]:
        """A shard's values `[text, layer, d_model]`, sliced lazily, and token hashes; verified the first time."""
        name = name_of(shard)
        path = self.folder / name
        start, stop = self.manifest.rows_of(shard)
        try:
            if self.verify and name not in self._verified:
                if sha256_file(path) != self.manifest.shards[name].sha256:
                    raise ArtefactError(
                        f"{path} does not match its checksum; delete it, then {_AGAIN}"
                    )
                self._verified.add(name)
            with safe_open(path, framework="pt") as file:
                values = file.get_slice("values")
                shape = [stop - start, len(self.layers), self.d_model]
                if values.get_shape() != shape:
                    raise ArtefactError(
                        f"{path} holds values of shape {values.get_shape()}, not {shape}; delete it, "
                        f"then {_AGAIN}"
                    )
                yield values, file.get_tensor("tokens")
        except (OSError, SafetensorError) as error:
            raise ArtefactError(
                f"{path} cannot be read ({error}); delete it, then {_AGAIN}"
            ) from error


_AGAIN = (
    "call capture_to_disk with the same arguments: it captures again what is missing or damaged"
)
