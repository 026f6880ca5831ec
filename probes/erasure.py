"""`erase`: take a concept out of activations so that no linear probe can find it (LEACE)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from probes.activations import Activations
from probes.errors import DataError
from probes.fitting import Labels, checked_labels


@dataclass(frozen=True, slots=True)
class Eraser:
    """The least-squares affine erasure of one concept at each layer: `h ← h − a·⟨h − μ, b⟩`.

    Attributes:
        directions: `a` `[layer, d_model]`, covariance of the activations with the label: where the
            concept is taken out.
        readers: `b` `[layer, d_model]`, scaled so that ⟨a, b⟩ = 1: how it is read.
        means: `μ` `[layer, d_model]`.
        layers: block index of each row.
    """

    directions: Float[Tensor, "layer d_model"]
    readers: Float[Tensor, "layer d_model"]
    means: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]

    def apply(self, acts: Activations) -> Activations:
        """The activations without the concept, at the eraser's layers.

        Raises:
            LayerError: the activations lack one of the layers.
            DataError: the widths differ.
        """
        if acts.values.shape[-1] != self.means.shape[-1]:
            raise DataError(
                f"the eraser has width {self.means.shape[-1]} but the activations have "
                f"{acts.values.shape[-1]}; they come from another model"
            )
        rows = [acts.row_of(layer) for layer in self.layers]
        values = acts.values[:, rows]
        directions, readers, means = (
            part.to(values.device) for part in (self.directions, self.readers, self.means)
        )
        read = torch.einsum("nld,ld->nl", values - means, readers)
        return replace(
            acts,
            values=values - read[..., None] * directions,
            layers=self.layers,
            norms=None if acts.norms is None else acts.norms[rows],
        )


def fit_eraser(acts: Activations, labels: Labels) -> Eraser:
    """LEACE (Belrose et al., 2023) for one binary concept, in float64.

    Among all affine maps after which every linear classifier is at chance on these activations, the
    one that moves them least (mean squared distance). With one label its closed form is a rank-one
    projection: `a = Σ_xz`, `b = Σ⁺Σ_xz / (Σ_zx Σ⁺ Σ_xz)`, where `Σ` is the covariance of the
    activations and `Σ_xz` that with the label. Where the label does not vary with the activations,
    nothing is changed.

    Raises:
        DataError: labels are not 0/1, hold one class, or differ in number from the texts; activations
            are not finite.
    """
    y, _ = checked_labels(acts, labels, None, "difference_of_means")
    x = acts.values.cpu().double().transpose(0, 1)
    means = x.mean(1, keepdim=True)
    x = x - means
    z = torch.from_numpy(y).double()
    z = z - z.mean()
    covariance = torch.einsum("lnd,n->ld", x, z) / len(z)
    # Σ⁺Σ_xz solves a least-squares problem in the texts, so Σ itself is never formed.
    readers = torch.linalg.lstsq(x, z.expand(len(x), -1)[..., None], driver="gelsd").solution[
        ..., 0
    ]
    scale = (covariance * readers).sum(-1, keepdim=True)
    readers = torch.where(scale > 1e-12, readers / scale.clamp_min(1e-12), 0.0)
    return Eraser(covariance.float(), readers.float(), means[:, 0].float(), acts.layers)
