"""Putting a PEFT adapter onto a model, and refusing one that does not fit or does nothing."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from probes.errors import ModelError
from probes.files import read_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from probes.models import LanguageModel


def attach(model: Any, adapter: str | os.PathLike) -> Any:
    """Load the adapter in folder `adapter` onto a transformers model, in place; returns PEFT's wrapper.

    PEFT only warns when keys do not match, which would compare the base with itself; here it is an
    error, as is an adapter whose update is zero. After an error the model is as it was.

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
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{weights} cannot be read ({_one_line(error)}); train it again"
        ) from error
    if not changes_anything(stored):
        raise ModelError(
            f"{folder}: the adapter changes nothing: its update is zero; train it again"
        )
    try:
        wrapped = PeftModel.from_pretrained(model, str(folder))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        strip(model)
        raise ModelError(
            f"{folder}: the adapter cannot be loaded onto this model ({_one_line(error)})"
        ) from error
    expected = set(get_peft_model_state_dict(wrapped))
    if expected != set(stored):
        wrapped.unload()
        odd = sorted(expected.symmetric_difference(stored))
        raise ModelError(
            f"{folder}: the adapter was made for another model: {len(odd)} tensors have no counterpart (first: {odd[0]})"
        )
    return wrapped


@contextmanager
def attached(
    model: "LanguageModel", adapter: str | os.PathLike | None
) -> "Iterator[LanguageModel]":
    """The model with an adapter on it inside the block, and exactly as it was afterwards.

    Many checkpoints of one base can be measured in this way without loading it again. `None` gives
    the model itself.

    Raises:
        ModelError: as `attach`.
    """
    if adapter is None:
        yield model
        return
    with unchanged(model.model):
        wrapped = attach(model.model, adapter)
        try:
            yield replace(model, identity=identity_with(model.identity, adapter))
        finally:
            wrapped.unload()


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Give a transformers model back its mode, configuration and `requires_grad` at the block's end."""
    training = model.training
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    config, generation_config = copy.deepcopy((model.config, model.generation_config))
    try:
        yield
    finally:
        model.train(training)
        vars(model.config).update(vars(config))
        model.generation_config = generation_config
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)


def identity_with(identity: str, adapter: str | os.PathLike) -> str:
    """Identity of a model of this identity with the adapter on it: its weights, and how they are applied."""
    folder = Path(adapter)
    config = read_json(folder / "adapter_config.json")
    config.pop("base_model_name_or_path", None)  # where the base happened to lie
    config = {  # PEFT writes sets as lists, in the order of the process
        name: sorted(value, key=str) if isinstance(value, list) else value
        for name, value in config.items()
    }
    return sha256_json([identity, config, sha256_file(folder / "adapter_model.safetensors")])


def changes_anything(tensors: dict[str, Any]) -> bool:
    """Whether a LoRA update is non-zero: some `lora_B` (zero before training) has moved."""
    second_factors = [
        tensor for name, tensor in tensors.items() if "lora_B" in name or "lora_embedding_B" in name
    ]
    return any(bool(tensor.any()) for tensor in (second_factors or tensors.values()))


def strip(model: Any) -> None:
    """Take all adapter layers out of a transformers model, leaving the modules they were put around."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    vars(model).pop("peft_config", None)


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
