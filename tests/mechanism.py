"""A direction and tiny models with uneven norms and biases, for the tests of attribution and the lens."""

from typing import Any

import torch

import probes
from tests.conftest import tiny_model

LABELS = [1, 0, 1, 0, 0]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def direction_of(width: int = 32, layers: int = 3, **facts: Any) -> probes.Direction:
    vectors = torch.randn(layers, width, generator=torch.Generator().manual_seed(3))
    facts = {"layer": layers - 1, "norms": torch.full((layers,), 5.0), "name": "villain", **facts}
    return probes.Direction.from_vectors(vectors, tuple(range(layers)), **facts)


def uneven(architecture: str, dtype: torch.dtype = torch.float32) -> probes.LanguageModel:
    """A tiny model whose biases are not zero and whose norms have uneven gains, as after training."""
    model = tiny_model(architecture)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.model.parameters():
            if parameter.ndim == 1:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.3
    model.model.to(dtype)
    return model


def hooks_of(model: probes.LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.model.modules()
    )
