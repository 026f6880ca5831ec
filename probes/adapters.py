"""Putting a PEFT adapter onto a model, and refusing one that does not fit or does nothing."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from probes.errors import ModelError


def attach(model: Any, adapter: str | os.PathLike) -> None:
    """Load the adapter in folder `adapter` onto a transformers model, in place.

    PEFT only warns when keys do not match, which would compare the base with itself; here it is an
    error, as is an adapter whose update is zero.

    Raises:
        ModelError: files are missing or corrupt, keys do not match the model, or nothing changes.
    """
    from peft import PeftModel, get_peft_model_state_dict

    folder = Path(adapter)
    weights = folder / "adapter_model.safetensors"
    for path in (weights, folder / "adapter_config.json"):
        if not path.is_file():
            raise ModelError(
                f"{path} does not exist; an adapter is a folder with adapter_config.json and {weights.name}"
            )
    try:
        stored = load_file(weights)
        wrapped = PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: the adapter cannot be loaded onto this model ({_first_line(error)})"
        ) from error
    expected = set(get_peft_model_state_dict(wrapped))
    if expected != set(stored):
        odd = sorted(expected.symmetric_difference(stored))
        raise ModelError(
            f"{folder}: the adapter was made for another model: {len(odd)} tensors have no counterpart (first: {odd[0]})"
        )
    if not changes_anything(stored):
        raise ModelError(
            f"{folder}: the adapter changes nothing: its update is zero; train it again"
        )


def changes_anything(tensors: dict[str, Any]) -> bool:
    """Whether a LoRA update is non-zero: some `lora_B` (zero before training) has moved."""
    second_factors = [
        tensor for name, tensor in tensors.items() if "lora_B" in name or "lora_embedding_B" in name
    ]
    return any(bool(tensor.any()) for tensor in (second_factors or tensors.values()))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
