"""`LanguageModel`: a causal language model, its tokenizer and its blocks; `wrap` makes one of a model in memory."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

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
        """Device on which the input embeddings run; "meta" where a model has no weights here."""
        embeddings: Any = self.model.get_input_embeddings()
        device = next(embeddings.parameters()).device
        # What accelerate has offloaded lies elsewhere, and is brought to where it runs.
        hook = getattr(embeddings, "_hf_hook", None)
        for placed in getattr(hook, "hooks", (hook,)):
            where = getattr(placed, "execution_device", None)
            if device.type == "meta" and where is not None:
                return torch.device(where)
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.dtype

    def generate(self, prompts: Text | Sequence[Text], **options: Any) -> list[str]:
        """Continuations of the prompts; see `probes.generation.generate` for the options."""
        from probes.generation import generate

        return generate(self, prompts, **options)


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
