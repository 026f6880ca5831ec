"""Batched continuation of prompts, independent of padding and reproducible from a seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from probes.errors import DataError
from probes.tokens import Text, encode, pad, pad_id_of

if TYPE_CHECKING:
    from probes.models import LanguageModel


@torch.inference_mode()
def generate(
    model: "LanguageModel",
    prompts: Text | Sequence[Text],
    *,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    use_cache: bool = True,
) -> list[str]:
    """Continue each prompt and return the continuations alone, special tokens removed.

    Args:
        model: the model; interventions active on it act on prompt and continuation alike.
        prompts: one string, or a list of strings or chats.
        max_new_tokens: tokens to add at most; fewer if the model ends its text.
        do_sample: greedy if false; else sampling at `temperature` within the `top_p` nucleus.
        seed: seeds the sampling of every batch; torch's global generators are left as they were.
        batch_size: prompts per batch.
        use_cache: keep the key-value cache; the tokens are the same without it, only slower.

    Raises:
        DataError: no prompt, an empty or too long one, or an option out of its range.
    """
    texts: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if max_new_tokens < 1 or batch_size < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise DataError(
            "generate needs max_new_tokens >= 1, batch_size >= 1, temperature > 0 and top_p in (0, 1]; "
            f"got {max_new_tokens}, {batch_size}, {temperature}, {top_p}"
        )
    room = None if model.max_length is None else model.max_length - max_new_tokens
    if room is not None and room < 1:
        raise DataError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt: the model's context holds {model.max_length}"
        )
    encoded = encode(model.tokenizer, texts, max_length=room)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if do_sample else {}
    devices = [model.device] if model.device.type == "cuda" else []
    continuations: list[str] = []
    transformer: Any = model.model
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for start in range(0, len(encoded), batch_size):
            batch = pad(encoded[start : start + batch_size], pad_id_of(model.tokenizer), "left")
            output = transformer.generate(
                input_ids=batch.input_ids.to(model.device),
                attention_mask=batch.attention_mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=do_sample,
                use_cache=use_cache,
                pad_token_id=pad_id_of(model.tokenizer),
                **sampling,
            )
            new = output[:, batch.input_ids.shape[1] :]
            continuations += model.tokenizer.batch_decode(new, skip_special_tokens=True)
    return continuations
