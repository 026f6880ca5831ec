"""Reading through nnsight 0.8: traces run in this process, or on a server that holds the weights.

Importing nnsight has effects on the whole process, whoever imports it: every object gets a method
`save`, and `Tensor.backward` becomes a context manager too.
"""

import copy
import functools
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from probes.backends.protocol import Read, Visit, named_errors
from probes.backends.twin import twin_of
from probes.errors import ModelError
from probes.files import sha256_json
from probes.layers import hidden_of
from probes.models import LanguageModel, wrap
from probes.tokens import TokenBatch

_TASK = "text-generation"


@dataclass(frozen=True, slots=True)
class NNsight:
    """Reads the blocks' outputs in an nnsight trace.

    Attributes:
        remote: `False` traces a twin of the model in this process, pooling as it goes. `"local"`
            does so through a serialised trace, as a server would: a rehearsal. `True` runs it on
            NDIF, a URL on another such server; the model must come from `skeleton`, and steering
            does not reach it. Over the network the residual streams of the chosen layers come back
            whole: choose few layers. The server's reply is a pickle, so use one that you trust.
    """

    remote: bool | str = False
    name: ClassVar[str] = "nnsight"

    @property
    def capabilities(self) -> frozenset[str]:
        """What this mode can do: a server knows neither the weights nor the hooks of this process."""
        if self.remote in (False, "local"):
            return frozenset({"local", "early_stop", "steered", "inner_hooks"})
        return frozenset({"remote", "early_stop"})

    def reader(self, model: LanguageModel) -> Read:
        """Prepare traces of this model; returns the function that runs batches through them.

        Raises:
            ModelError: the library is not installed, or cannot wrap the model.
        """
        TransformersModel = _library().TransformersModel
        if "remote" in self.capabilities:
            with named_errors(self.name, model, "to describe"):
                traced = TransformersModel(model.name, tokenizer=_own(model.tokenizer), task=_TASK)
            path = next(name for name, part in model.model.named_modules() if part is model.blocks)
        else:
            twin = twin_of(model)
            path = twin.path
            for block in twin.blocks:
                _hooks_before_output(block)
            with named_errors(self.name, model, "to wrap"):
                # The device, because the weights, which are the user's own, would be moved to a
                # GPU if there is one.
                traced = TransformersModel(
                    twin.model,
                    tokenizer=_own(model.tokenizer),
                    task=_TASK,
                    device=model.device,
                )
        blocks = functools.reduce(getattr, path.split("."), traced)

        def read(batch: TokenBatch, layers: Sequence[int], visit: Visit) -> None:
            inputs = batch.to(
                torch.device("cpu")
            )  # nnsight moves them to the model, wherever it is
            # A trace has to ask for values in the order in which they arise.
            order = sorted(layers)
            with named_errors(self.name, model, "to run"):
                if self.remote:
                    outputs = _shipped(traced, inputs, [blocks[k] for k in order], self.remote)
                    for layer, output in zip(order, outputs, strict=True):
                        visit(layer, hidden_of(output))
                else:
                    _visited(traced, inputs, {k: blocks[k] for k in order}, visit)

        return read


def skeleton(ref: str) -> LanguageModel:
    """A model of the hub without its weights, to be measured on a server by `NNsight(remote=True)`.

    Only its configuration and its tokenizer are fetched; the server's deployment decides on the
    revision and the dtype of the weights, which therefore are not part of the identity.

    Raises:
        ModelError: the reference cannot be resolved, or its blocks cannot be found.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(ref)
        tokenizer = AutoTokenizer.from_pretrained(ref)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no configuration and tokenizer of {ref!r} can be read ({' '.join(str(error).split())[:200]}); "
            "use a hub id that this machine can reach"
        ) from error
    return wrap(model, tokenizer, name=ref, identity=sha256_json(["remote", ref]))


def _library() -> Any:
    try:
        import nnsight
    except ImportError as error:
        raise ModelError(
            'backend "nnsight" needs nnsight 0.8; pip install storyprior[backends]'
        ) from error
    return nnsight


def _own(tokenizer: Any) -> Any:
    """A tokenizer whose settings can be changed, as nnsight does; the vocabulary is not copied.

    A deep copy takes seconds where there are 262,144 tokens.
    """
    own = copy.copy(tokenizer)
    for name, value in vars(own).items():
        if isinstance(value, (dict, list)):
            vars(own)[name] = value.copy()
    return own


def _hooks_before_output(block: nn.Module) -> None:
    """Make a block's hooks part of its forward: nnsight reads outputs before the hooks have run."""
    if not block._forward_hooks and not block._forward_pre_hooks:
        return
    hooked = copy.copy(block)
    vars(block)["forward"] = hooked.__call__
    for name in [name for name in vars(block) if name.startswith("_forward")]:
        vars(block)[name] = OrderedDict()


def _visited(traced: Any, inputs: dict[str, Any], blocks: dict[int, Any], visit: Visit) -> None:
    """Visit the blocks' outputs inside the trace, so that nothing is kept."""
    with traced.trace(**inputs, use_cache=False) as tracer:
        for layer, block in blocks.items():
            visit(layer, hidden_of(block.output))
        tracer.stop()


def _shipped(
    traced: Any, inputs: dict[str, Any], blocks: list[Any], remote: bool | str
) -> list[Any]:
    """The blocks' outputs, in their order, from a trace that holds nothing but what a server knows."""
    import cloudpickle
    import nnsight

    # Shipping hides local modules, puts their paths back in another order, and leaves every one of them
    # marked to be sent by value, which breaks process pools (joblib's) in the rest of the program.
    path, marked = list(sys.path), cloudpickle.list_registry_pickle_by_value()
    try:
        with traced.trace(**inputs, use_cache=False, remote=remote) as tracer:
            outputs = nnsight.save([])
            for block in blocks:
                output = block.output
                outputs.append(output[0] if isinstance(output, tuple) else output)
            tracer.stop()
    finally:
        sys.path[:] = path
        for name in cloudpickle.list_registry_pickle_by_value() - marked:
            cloudpickle.unregister_pickle_by_value(ModuleType(name))
    return outputs
