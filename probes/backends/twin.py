"""A copy of a model's modules around the same weights, for libraries that rebuild what they wrap.

TransformerLens replaces modules and may switch the attention implementation; nnsight replaces every
module's `forward` for good. Both get a twin, so the user's model stays as it is.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn

from probes.errors import ModelError
from probes.models import LanguageModel

_HOOKS = tuple(name for name in vars(nn.Module()) if "_hooks" in name)


@dataclass(frozen=True, slots=True)
class Twin:
    """A copy of the module tree.

    Attributes:
        model: the copy; its parameters are the original's own, everything else is its own.
        blocks: its transformer blocks, in order.
        path: dotted name of the list of blocks.
    """

    model: nn.Module
    blocks: tuple[nn.Module, ...]
    path: str


def twin_of(model: LanguageModel) -> Twin:
    """Copy the modules of a model but not its parameters. Hooks on it are on the copy too, as they are now.

    Buffers are copied, since a library may rewrite them in place.

    Raises:
        ModelError: something that a module holds cannot be copied.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in model.model.parameters()}
    for module in model.model.modules():
        # The very same hook functions: a copied bound method would act on a copy of its object.
        shared |= {id(vars(module)[name]): vars(module)[name].copy() for name in _HOOKS}
    try:
        twin = copy.deepcopy(model.model, shared)
    except Exception as error:  # whatever an attribute's __deepcopy__ or pickling raises
        raise ModelError(
            f"the modules of {model.name} cannot be copied ({type(error).__name__}: {error}); "
            'use backend="hooks", which needs no copy'
        ) from error
    path = next(name for name, part in model.model.named_modules() if part is model.blocks)
    return Twin(twin, tuple(twin.get_submodule(path).children()), path)
