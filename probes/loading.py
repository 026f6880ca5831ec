"""From a model reference to a loaded model: packaged default, hub id, folder, `.gguf`, with or without adapter."""

import os
from pathlib import Path
from typing import Any

import torch

from probes.adapters import attach, identity_with
from probes.conversion import PACKAGED, materialise
from probes.errors import ModelError
from probes.files import read_json, sha256_file, sha256_json
from probes.models import LanguageModel, wrap


def load(
    ref: str | os.PathLike,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    adapter: str | os.PathLike | None = None,
    revision: str | None = None,
    blocks: str | None = None,
) -> LanguageModel:
    """Load a causal language model for reading and steering.

    Args:
        ref: a packaged model (`gemma-3-270m`, `smollm2-135m-instruct`), a hub id, a local folder in
            the transformers layout, or a `.gguf` file (converted once, then cached).
        dtype: "auto" is bfloat16 where the hardware is fast at it, float32 elsewhere.
        device: "auto" is CUDA if there is one, else the CPU.
        adapter: folder of a PEFT adapter to put onto the model.
        revision: branch, tag or commit of a hub id.
        blocks: dotted path of the block list, for an architecture that is not recognised.

    Remote code is never run and weights are only read from safetensors or GGUF.

    Raises:
        ModelError: the reference is unknown, its weights are unreadable, incomplete or corrupt, its
            blocks cannot be found, or the adapter does not fit the model or changes nothing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    source = materialise(ref)
    try:
        commit = None if Path(source).is_dir() else _commit_of(str(source), revision)
        revision = commit or revision
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (
        Exception
    ) as error:  # transformers raises a dozen kinds here, down to bare SafetensorError
        raise ModelError(_why_unloadable(ref, source, error)) from error
    model, info = loaded
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ModelError(
            f"{ref}: the weights do not fit {type(model).__name__}: {len(wrong)} tensors are missing or of another "
            f"shape (first: {wrong[0]}); get a complete copy"
        )
    identity = _identity(source, commit, dtype)
    if adapter is not None:
        attach(model, adapter)
        identity = identity_with(identity, adapter)
    return wrap(model.to(device), tokenizer, blocks=blocks, name=str(ref), identity=identity)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; "auto" prefers CUDA. Raises `ModelError` when it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(
            f'device {device!r} is not one torch knows; use "auto", "cpu" or "cuda"'
        ) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {device!r} was asked for but torch finds no CUDA device; use device='cpu'"
        )
    return chosen


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype asked for; "auto" is bfloat16 where `device` multiplies it natively, else float32."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    known = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float64": torch.float64,
    }
    if dtype not in known:
        raise ModelError(f'dtype {dtype!r} is unknown; use "auto" or one of {", ".join(known)}')
    return known[dtype]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are native: CUDA from Ampere on, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _why_unloadable(ref: Any, source: Any, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        return f"{ref}: cannot load the model in this folder ({reason}); check that its download is complete"
    return (
        f"unknown model {str(ref)!r} ({reason[:200]}); use one of {', '.join(PACKAGED)}, a folder, a .gguf file, "
        "or a hub id that this machine can reach"
    )


def _commit_of(ref: str, revision: str | None) -> str | None:
    """The commit that a revision of a hub id stands for now; transformers 5 no longer keeps it."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    return extract_commit_hash(cached_file(ref, "config.json", revision=revision), None)


def _identity(source: str | Path, commit: str | None, dtype: torch.dtype) -> str:
    folder = Path(source)
    if not folder.is_dir():
        return sha256_json([str(source), commit, str(dtype)])
    marker = folder / "storyprior.json"
    if marker.exists():  # converted by us: the source file's hash stands for the weights
        return sha256_json([read_json(marker)["sha256"], str(dtype)])
    kinds = (
        *("*.safetensors", "config.json", "tokenizer*", "chat_template*"),
        *("special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model"),
    )
    found = {path for kind in kinds for path in folder.glob(kind) if path.is_file()}
    paths = sorted(found)
    return sha256_json([[sha256_file(path) for path in paths], str(dtype)])
