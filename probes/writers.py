"""What writes into the residual stream in one block: finding its parts, and reading them by hooks."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probes.errors import ModelError
from probes.layers import hidden_of
from probes.norms import FrozenNorm, read_norm

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_OUTPUT = ("o_proj", "c_proj", "out_proj", "dense", "wo", "o")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")


@dataclass(frozen=True, slots=True)
class Grid:
    """What the residual stream is read with: a direction, and the weight of each token.

    Attributes:
        unit: `[d_model]`, the direction.
        pooling: `[text, token]`, weights that sum to 1 for each text.
        mask: `[text, token]`, 1 at real tokens.
    """

    unit: Float[Tensor, " d_model"]
    pooling: Float[Tensor, "text token"]
    mask: Int[Tensor, "text token"]

    def pool(self, values: Float[Tensor, "text token ..."]) -> Float[Tensor, "text ..."]:
        """Weighted mean over real tokens, on the CPU; padding may hold anything, NaN included."""
        real = self.mask.to(values.device).bool()
        real = real.reshape(*real.shape, *[1] * (values.ndim - 2))
        pooling = self.pooling.to(values.device)
        return torch.einsum("bt,bt...->b...", pooling, torch.where(real, values, 0)).cpu()


class _Write:
    """The way of one part's output into the stream: the norms it passes and the tensor it became.

    The stream itself, before the block and after it, is held in the same way.

    `projection` and `square`, one figure per token, are taken at once: some blocks add to the tensor
    in place.
    """

    def __init__(self, output: Tensor, unit: Tensor) -> None:
        self.norms: list[tuple[nn.Module, Tensor, Tensor]] = []
        self._unit = unit.to(output.device)
        self.become(output)

    def become(self, output: Tensor) -> None:
        self._tail = output
        by_coordinate = output.float() * self._unit
        self.projection, self.square = by_coordinate.sum(-1), by_coordinate.square().sum(-1)

    def follow(self, module: nn.Module, given: Any, output: Any) -> None:
        if given is self._tail and isinstance(output, Tensor) and output is not given:
            if not isinstance(module, nn.Dropout | nn.Identity):
                self.norms.append((module, given, output))
            self.become(output)


class BlockReader:
    """Reads one block in a forward pass. Afterwards it holds, pooled, on the CPU, in float32:

    `before`, `out` and `after` `[text]`, the projections of the stream as the block got it, as it
    left it, and after other hooks on it; `heads` `[text, head]`, `mlp` and `bias` `[text]`, what the
    parts contributed to `out − before`; `size` `[text]`, the magnitude of all of these before
    anything cancels, to which rounding is proportional.
    """

    before: Tensor
    out: Tensor
    after: Tensor
    heads: Tensor
    mlp: Tensor
    bias: Tensor
    size: Tensor

    def __init__(self, block: nn.Module, index: int, n_heads: int, grid: Grid) -> None:
        self.block, self.n_heads, self.grid = block, n_heads, grid
        self._children = dict(block.named_children())
        self._attention = _only(
            f"attention of block {index} of kind {type(block).__name__}",
            {name: self._children[name] for name in _ATTENTION if name in self._children},
            self._children,
        )
        inside = dict(self._attention.named_modules())
        self._projection = _only(
            f"output projection in {type(self._attention).__name__} of block {index}",
            {name: inside[name] for name in inside if name.rpartition(".")[2] in _OUTPUT},
            [name for name in inside if "." not in name],
        )
        self._mlp = _only(
            f"MLP of block {index} of kind {type(block).__name__}",
            {name: self._children[name] for name in _MLP if name in self._children},
            self._children,
        )
        self._stream: _Write | None = None
        self._mixed: Tensor | None = None
        self._writes: dict[str, _Write] = {}

    def attach(self, stack: contextlib.ExitStack) -> None:
        """Register the hooks; leaving the stack removes them."""
        keep = stack.callback
        keep(self.block.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        keep(self._projection.register_forward_hook(self._on_projection).remove)
        keep(self._attention.register_forward_hook(self._on_attention).remove)
        keep(self._mlp.register_forward_hook(self._on_mlp).remove)
        for child in self._children.values():
            if child is not self._attention and child is not self._mlp:
                keep(child.register_forward_hook(self._on_child).remove)
        # Before the hooks of others, and after them.
        keep(self.block.register_forward_hook(self._on_output, prepend=True).remove)
        keep(self.block.register_forward_hook(self._on_edited).remove)

    def _enter(self, module: Any, args: tuple, kwargs: dict) -> None:
        hidden = hidden_of(args[0] if args else kwargs.get("hidden_states"))
        self._stream = _Write(hidden, self.grid.unit)

    def _on_projection(self, module: Any, args: tuple, output: Tensor) -> None:
        self._mixed = args[0]
        self._writes["attention"] = _Write(output, self.grid.unit)

    def _on_attention(self, module: Any, args: Any, output: Any) -> None:
        # A dropout of the attention's own may have made another tensor of the projection's output.
        if "attention" in self._writes:
            self._writes["attention"].become(hidden_of(output))

    def _on_mlp(self, module: Any, args: Any, output: Any) -> None:
        written = output[0] if isinstance(output, tuple) else output
        self._writes["mlp"] = _Write(written, self.grid.unit)

    def _on_child(self, module: nn.Module, args: tuple, output: Any) -> None:
        for write in self._writes.values():
            write.follow(module, args[0] if args else None, output)

    def _on_edited(self, module: Any, args: Any, output: Any) -> None:
        self.after = self.grid.pool(_Write(hidden_of(output), self.grid.unit).projection)

    def _on_output(self, module: Any, args: Any, output: Any) -> None:
        out = hidden_of(output)
        stream, mixed = self._stream, self._mixed
        if stream is None or mixed is None or set(self._writes) != {"attention", "mlp"}:
            raise ModelError(
                f"{type(self.block).__name__} does not run its attention and its MLP as modules; its "
                "heads cannot be told apart"
            )
        if mixed.ndim != 3 or mixed.shape[-1] % self.n_heads:
            raise ModelError(
                f"values of shape {tuple(mixed.shape)} enter the output projection of "
                f"{type(self.block).__name__}; expected [text, token, {self.n_heads} heads × d_head]"
            )
        attention, mlp = self._writes["attention"], self._writes["mlp"]
        products, bias = self._products(mixed, attention, out)
        left = _Write(out, self.grid.unit)
        self.before, self.out = self.grid.pool(stream.projection), self.grid.pool(left.projection)
        self.mlp = self.grid.pool(mlp.projection.reshape(out.shape[:2]))
        self.bias = self.grid.pool(bias)
        self.heads = self.grid.pool(products.unflatten(-1, (self.n_heads, -1)).sum(-1))
        square = products.square().sum(-1)
        for write in (stream, attention, mlp, left):
            square = square + write.square.reshape(out.shape[:2])
        self.size = self.grid.pool(square.sqrt())
        self._stream = self._mixed = None
        self._writes = {}

    def _products(self, mixed: Tensor, write: _Write, out: Tensor) -> tuple[Tensor, Tensor]:
        """`z ⊙ W_Oᵀ u'` `[text, token, head × d_head]`, and what does not depend on z `[text, token]`.

        u' is u pulled back through the norms behind the projection, each at its observed scale. W_Oᵀ
        is applied by automatic differentiation, which is exact for a linear map however its weight
        is stored, and includes an adapter's part.
        """
        pulled = self.grid.unit.to(out.device).expand(out.shape)
        bias = torch.zeros(out.shape[:2], device=out.device)
        for module, given, output in reversed(write.norms):
            norm: FrozenNorm = read_norm(module, out.shape[-1], out.device)
            bias += pulled @ norm.shift
            pulled = norm.pull(pulled) * norm.scale(given.float(), output.float())
        with torch.enable_grad():
            z = mixed.detach().requires_grad_()
            projected = self._projection.forward(z)
            (back,) = torch.autograd.grad(projected, z, pulled.to(projected.dtype))
        constant = self._projection.forward(torch.zeros_like(mixed[:1, :1]))
        bias += (pulled * constant.float()).sum(-1)
        return mixed.float() * back.float(), bias


def _only(what: str, found: dict[str, nn.Module], among: Iterable[str]) -> nn.Module:
    if len(found) != 1:
        raise ModelError(
            f"cannot find the {what}: {', '.join(found) or 'none'} of {', '.join(filter(None, among))} "
            "could be it; attribution does not support this architecture"
        )
    return next(iter(found.values()))
