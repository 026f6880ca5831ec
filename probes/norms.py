"""Norm layers read as affine maps, their scale frozen at what was observed."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.errors import ModelError

# Long enough for a norm's epsilon to vanish beside it, and a power of two, so exact.
_LENGTH = 1024.0


@dataclass(frozen=True, slots=True)
class FrozenNorm:
    """`y = scale · gain ⊙ (x − mean(x)) + shift`, or without the mean; `scale` is one number per token.

    RMS and layer norms are linear in x once their scale is given (Elhage et al., 2021).

    Attributes:
        gain: `[d_model]`, float32: what a coordinate is multiplied by at unit scale.
        shift: `[d_model]`, float32: what is added to every token.
        centres: whether the mean over coordinates is taken off first, as in a layer norm.
    """

    gain: Float[Tensor, " d_model"]
    shift: Float[Tensor, " d_model"]
    centres: bool

    def push(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """What the norm makes of a vector at unit scale, without the shift."""
        return self.gain * self._centred(x)

    def pull(self, u: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The adjoint: `⟨push(x), u⟩ = ⟨x, pull(u)⟩`."""
        return self._centred(self.gain * u)

    def scale(
        self, x: Float[Tensor, "... d_model"], y: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "... 1"]:
        """The scale at which the norm turned x into y, by least squares over the coordinates."""
        unit = self.push(x)
        square = unit.square().sum(-1, keepdim=True).clamp_min(torch.finfo(unit.dtype).tiny)
        return ((y - self.shift) * unit).sum(-1, keepdim=True) / square

    def _centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x


@torch.no_grad()
def read_norm(module: nn.Module, width: int, device: torch.device | str = "cpu") -> FrozenNorm:
    """A norm layer's gain and shift on `device`, found by applying it to known vectors, in float32.

    Families differ in how they store the gain (Gemma keeps it minus one) and in whether they centre;
    what the layer does to a vector says both without a list of names.

    Raises:
        ModelError: the module is no norm: it does not treat coordinates apart but for one scale; or
            its weights are not in memory.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        raise ModelError(
            f"the weights of a {type(module).__name__} are not in memory; load the model without offloading"
        )
    signs = torch.ones(width, device=device)
    signs[1::2] = -1
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(width, generator=generator).to(device) * _LENGTH
    apply = _in_float32(module)
    shift = apply(torch.zeros(width, device=device))
    gain = (apply(signs * _LENGTH) - shift) * signs
    seen = apply(sample)
    for centres in (False, True):
        norm = FrozenNorm(gain, shift, centres)
        error = norm.push(sample) * norm.scale(sample, seen) + shift - seen
        if error.norm() <= 1e-4 * seen.norm():
            return norm
    raise ModelError(
        f"{type(module).__name__} is no RMS or layer norm that can be read as gain and shift; "
        "this architecture is not supported here"
    )


def _in_float32(module: nn.Module) -> Any:
    """The module's own arithmetic in float32, without its hooks; the module stays as it is."""
    clone = copy.copy(module)
    clone._parameters = {
        name: None if value is None else nn.Parameter(value.detach().float(), requires_grad=False)
        for name, value in module._parameters.items()
    }
    # The class's forward: one that accelerate sets on an instance runs with the original's weights.
    return lambda vector: type(clone).forward(clone, vector[None, None])[0, 0].float()
