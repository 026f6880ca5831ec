"""`capture_to_disk`: activations of more texts than memory holds, in a folder that a killed run resumes."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from probes.activations import Activations
from probes.capture import capture
from probes.errors import ArtefactError, DataError, ModelError, StorypriorError
from probes.files import atomic_path, sha256_file, sha256_json, write_json
from probes.layers import resolve_layers
from probes.models import LanguageModel
from probes.pooling import Pool
from probes.shards import MANIFEST, Facts, Manifest, ShardFile, StoredActivations, read_manifest
from probes.tokens import Text, encode, render

# A shard's values, its texts' tokens and the forward pass are what is in memory at a time.
SHARD_BYTES = 64 * 2**20
SHARD_TEXTS = 1024

# Hooks of these libraries move or record tensors; any other may change the values.
HARMLESS_HOOKS = ("accelerate", "peft", "torch", "transformers")


def capture_to_disk(
    model: LanguageModel,
    texts: Sequence[Text],
    folder: str | os.PathLike,
    *,
    layers: str | int | Sequence[int] = "all",
    pool: Pool = "last",
    batch_tokens: int = 4096,
    shard_texts: int | None = None,
    progress: bool = False,
) -> StoredActivations:
    """`capture` into shards on disk, in memory that does not grow with the number of texts.

    The shards lie in `folder/<key>`, where the key is a hash of all that the values depend on: the
    model's identity and dtype, its chat template and tokenizer, the texts, layers and pooling. What
    is there already is not captured again: a finished folder is opened without a forward pass, a
    run that was killed goes on at its next shard, and a shard that is missing or damaged is captured
    anew. Processes that ask for the same key wait for the one that is at it.

    Texts are batched within their shard, so values are those of `capture` on each shard's texts to
    the bit, and those of one `capture` of all texts to rounding (5e-5 relative in float32).

    Args:
        model: as for `capture`; it needs an identity.
        texts: a sequence of strings or chats; it is read once for the key, then in slices.
        folder: where keys are kept; made if it is not there.
        layers: as for `capture`.
        pool: as for `capture`.
        batch_tokens: as for `capture`. No part of the key: it moves values by rounding only.
        shard_texts: texts in a shard; by default as many as fill 64 MiB, 1024 at most. No part of
            the key: a capture that has begun keeps the number it began with.
        progress: show a progress bar.

    Raises:
        DataError, LayerError: as `capture`; or `texts` is no sequence.
        ModelError: the model has no identity, or hooks act on it (as inside `steer`) whose effect no
            key would know.
        ArtefactError: the folder cannot be written; shards that are complete are kept.
    """
    if shard_texts is not None and shard_texts < 1:
        raise DataError(f"shard_texts is {shard_texts}; a shard holds at least one text")
    facts = _facts(model, texts, resolve_layers(layers, model.n_layers), pool)
    home = Path(folder) / facts.key
    finished = _finished(home, facts)
    if finished is not None:
        return finished
    with _locked(home):
        finished = _finished(home, facts)  # by another process, while this one waited
        if finished is not None:
            return finished
        manifest = _resumed(home, facts, shard_texts)
        with tqdm(total=facts.rows, desc="capture", unit="text", disable=not progress) as bar:
            for shard, name in enumerate(manifest.names):
                start, stop = manifest.rows_of(shard)
                if name not in manifest.shards:
                    acts = _captured(model, texts, pool, facts, batch_tokens, start, stop)
                    manifest = _with_shard(home, manifest, name, acts)
                bar.update(stop - start)
        norms = tuple(
            norm if math.isfinite(norm) else None for norm in _norms(home, manifest).tolist()
        )
        _write(home, manifest.model_copy(update={"norms": norms}))
    return StoredActivations.open(home)


def _facts(
    model: LanguageModel, texts: Sequence[Text], layers: tuple[int, ...], pool: Pool
) -> Facts:
    if not model.identity:
        raise ModelError(
            f"model {model.name!r} has no identity, so what is stored could not be told from another "
            'model\'s; load it with probes.load, or pass identity="…" to probes.wrap'
        )
    for module in model.model.modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            origin = getattr(hook, "__module__", None) or type(hook).__module__
            if origin.split(".")[0] not in HARMLESS_HOOKS:
                raise ModelError(
                    f"a hook of {origin} acts on model {model.name!r} and may change what is stored "
                    "under its identity; store outside `with steer(…)`, or remove the hook"
                )
    if isinstance(texts, str | bytes | Mapping) or not (
        hasattr(texts, "__len__") and hasattr(texts, "__getitem__")
    ):
        raise DataError(
            f"texts is a {type(texts).__name__}; pass a sequence of texts, which can be read twice"
        )
    if len(texts) == 0:
        raise DataError("texts is empty; pass at least one text")
    digest = hashlib.sha256()
    for row, text in enumerate(texts):
        read: list[Any] = [render(model.tokenizer, text, row)]
        if not isinstance(text, str):  # who says what is part of some poolings
            read.append([dict(message) for message in text])
        digest.update(json.dumps(read, sort_keys=True, default=repr).encode())
    sentence = encode(model.tokenizer, ["The ferry left early; 12 people stayed."])[0]
    return Facts(
        model=model.identity,
        dtype=str(model.dtype),
        template=sha256_json(getattr(model.tokenizer, "chat_template", None)),
        tokenizer=sha256_json(sentence.ids),
        texts=digest.hexdigest(),
        rows=len(texts),
        d_model=model.d_model,
        layers=layers,
        pool=_pool_fact(pool, len(texts)),
    )


def _pool_fact(pool: Any, rows: int) -> str:
    """All that a pooling is told, as text that is the same in every process."""
    if isinstance(pool, str):
        return pool
    if dataclasses.is_dataclass(pool) and not isinstance(pool, type):
        told = json.dumps(dataclasses.asdict(pool), sort_keys=True)
        return f"{type(pool).__qualname__} {told}"
    if not hasattr(pool, "__len__") or not hasattr(pool, "__getitem__"):
        raise DataError(
            f"pool is a {type(pool).__name__}; pass the name of a pooling, or a list with one (start, "
            "end) range per text"
        )
    if len(pool) != rows:
        raise DataError(
            f"{len(pool)} ranges were given for {rows} texts; pass one (start, end) each"
        )
    digest = hashlib.sha256()
    for row, span in enumerate(pool):
        try:
            start, end = map(int, span)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"range {span!r} of text {row} must be two whole numbers, (start, end)"
            ) from error
        digest.update(f"{start} {end}\n".encode())
    return f"spans {digest.hexdigest()}"


def _finished(home: Path, facts: Facts) -> StoredActivations | None:
    try:
        stored = StoredActivations.open(home)
    except ArtefactError:
        return None
    return stored if stored.manifest.facts == facts else None


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(home / ".lock")
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ArtefactError(
            f"cannot write into {home}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _resumed(home: Path, facts: Facts, shard_texts: int | None) -> Manifest:
    """The manifest to go on from: it lists the shards that are whole; other files of ours are removed."""
    bytes_per_text = 4 * len(facts.layers) * facts.d_model
    fresh = Manifest(
        key=facts.key,
        facts=facts,
        shard_texts=shard_texts or max(1, min(SHARD_TEXTS, SHARD_BYTES // bytes_per_text)),
    )
    try:
        found = read_manifest(home)
    except ArtefactError:  # a first run, or a manifest that cannot be trusted
        found = fresh
    if found.facts != facts:
        found = fresh
    whole = {
        name: shard
        for name, shard in found.shards.items()
        if name in found.names
        and (home / name).is_file()
        and sha256_file(home / name) == shard.sha256
    }
    manifest = found.model_copy(update={"shards": whole, "norms": None})
    _write(home, manifest)
    left_by_a_kill = [*home.glob(".*.safetensors"), *home.glob(f".{MANIFEST}.*")]
    unlisted = [path for path in home.glob("[0-9]*.safetensors") if path.name not in whole]
    for path in (*left_by_a_kill, *unlisted):
        path.unlink(missing_ok=True)
    return manifest


def _captured(
    model: LanguageModel,
    texts: Sequence[Text],
    pool: Any,
    facts: Facts,
    batch_tokens: int,
    start: int,
    stop: int,
) -> Activations:
    per_text = not isinstance(pool, str) and not dataclasses.is_dataclass(pool)
    try:
        return capture(
            model,
            texts[start:stop],
            layers=facts.layers,
            pool=pool[start:stop] if per_text else pool,
            batch_tokens=batch_tokens,
        )
    except StorypriorError as error:
        if start == 0:
            raise
        raise type(error)(f"counting texts from text {start}: {error}") from error


def _with_shard(home: Path, manifest: Manifest, name: str, acts: Activations) -> Manifest:
    path = home / name
    assert acts.tokens is not None  # `capture` always records them
    tensors = {"values": acts.values.contiguous(), "norms": _norms_of(acts), "tokens": acts.tokens}
    # One entry only: safetensors writes several in random order, and shards are the same in every run.
    about = json.dumps({"kind": "activation shard", "key": manifest.key}, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"storyprior": about})
    shard = ShardFile(bytes=path.stat().st_size, sha256=sha256_file(path))
    shards = dict(sorted({**manifest.shards, name: shard}.items()))
    manifest = manifest.model_copy(update={"shards": shards, "pool": acts.pool})
    _write(home, manifest)
    return manifest


def _norms_of(acts: Activations) -> Tensor:
    return torch.full((len(acts.layers),), torch.nan) if acts.norms is None else acts.norms


def _norms(home: Path, manifest: Manifest) -> Tensor:
    """Mean norms `[layer]` over all texts from those of the shards, every text weighing the same."""
    total = torch.zeros(len(manifest.facts.layers), dtype=torch.float64)
    for shard, name in enumerate(manifest.names):
        start, stop = manifest.rows_of(shard)
        with safe_open(home / name, framework="pt") as file:
            total += (stop - start) * file.get_tensor("norms").double()
    return (total / manifest.facts.rows).float()


def _write(home: Path, manifest: Manifest) -> None:
    write_json(home / MANIFEST, manifest.model_dump(mode="json"))
