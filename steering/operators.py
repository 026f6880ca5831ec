"""Pure edits of the residual stream. All compute in float32 and return the dtype they were given."""

from jaxtyping import Float
from torch import Tensor


def add(
    hidden: Float[Tensor, "... d_model"], vector: Float[Tensor, " d_model"]
) -> Float[Tensor, "... d_model"]:
    """`h + v`."""
    return (hidden.float() + vector).to(hidden.dtype)


def project_out(
    hidden: Float[Tensor, "... d_model"], unit: Float[Tensor, " d_model"]
) -> Float[Tensor, "... d_model"]:
    """`h − ⟨h, u⟩ u` for a unit vector u: directional ablation (Arditi et al., 2024)."""
    wide = hidden.float()
    return (wide - (wide @ unit).unsqueeze(-1) * unit).to(hidden.dtype)
