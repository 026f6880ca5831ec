"""From a model reference to a loaded model: packaged default, hub id, folder, `.gguf`, adapter, or your own."""

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from probes.errors import ModelError
from probes.files import read_json, sha256_file, sha256_json
from probes.layers import Blocks, find_blocks
from probes.tokens import Text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer and its blocks.

    Attributes:
        model: the transformers module (`…ForCausalLM`), in evaluation mode.
        tokenizer: its tokenizer.
        blocks: its transformer blocks; layer i is `blocks[i]`.
        name: the reference it was loaded from.
        identity: hash of weights, revision, dtype and adapter; two models that can give other
            activations have other identities.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    blocks: Blocks
    name: str = ""
    identity: str = ""

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @functools.cached_property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.config.get_text_config(decoder=True).hidden_size

    @functools.cached_property
    def max_length(self) -> int | None:
        """Tokens the context holds, or `None` when the architecture sets no limit."""
        return getattr(
            self.model.config.get_text_config(decoder=True), "max_position_embeddings", None
        )

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings."""
        return next(self.model.get_input_embeddings().parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.dtype

    def generate(self, prompts: Text | Sequence[Text], **options: Any) -> list[str]:
        """Continuations of the prompts; see `probes.generation.generate` for the options."""
        from probes.generation import generate

        return generate(self, prompts, **options)


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

    from probes import conversion

    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    source = conversion.materialise(ref)
    try:
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
    identity = _identity(source, getattr(model.config, "_commit_hash", None), dtype)
    if adapter is not None:
        from probes.adapters import attach

        attach(model, adapter)
        identity = sha256_json([identity, sha256_file(Path(adapter) / "adapter_model.safetensors")])
    return wrap(model.to(device), tokenizer, blocks=blocks, name=str(ref), identity=identity)


def wrap(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    *,
    blocks: str | None = None,
    name: str = "",
    identity: str = "",
) -> LanguageModel:
    """A `LanguageModel` around a transformers model (or a PEFT model) that is already in memory.

    The model is put into evaluation mode; nothing else about it is changed.

    Raises:
        ModelError: the blocks cannot be found; `blocks="path.to.layers"` names them.
    """
    inner: Any = model
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        model = inner.get_base_model()
    return LanguageModel(
        model=model.eval(),
        tokenizer=tokenizer,
        blocks=find_blocks(model, blocks),
        name=name or getattr(model.config, "name_or_path", "") or type(model).__name__,
        identity=identity,
    )


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
    from probes.conversion import PACKAGED

    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(source).is_dir():
        return f"{ref}: cannot load the model in this folder ({reason}); check that its download is complete"
    return (
        f"unknown model {str(ref)!r} ({reason[:200]}); use one of {', '.join(PACKAGED)}, a folder, a .gguf file, "
        "or a hub id that this machine can reach"
    )


def _identity(source: str | Path, commit: str | None, dtype: torch.dtype) -> str:
    folder = Path(source)
    if not folder.is_dir():
        return sha256_json([str(source), commit, str(dtype)])
    marker = folder / "storyprior.json"
    if marker.exists():  # converted by us: the source file's hash stands for the weights
        return sha256_json([read_json(marker)["sha256"], str(dtype)])
    kinds = ("*.safetensors", "config.json", "tokenizer*", "chat_template*")
    paths = [path for kind in kinds for path in sorted(folder.glob(kind))]
    return sha256_json([[sha256_file(path) for path in paths], str(dtype)])


def is_hub_id(ref: str) -> bool:
    """Whether `ref` has the form of a hub id: `name` or `owner/name`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", ref) is not None
