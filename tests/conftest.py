"""Tiny random models of ten architectures with one tokenizer: the tests need no network and no weights."""

from functools import cache

import pytest
import torch
import transformers
from hypothesis import settings
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# Before anything of ours is imported: shapes and types are checked at every call while testing. The
# functions that users call are left out, since tests give them wrong types on purpose.
CHECKED = [
    *("probes.activations", "probes.directions", "probes.estimators", "probes.fitting"),
    *(
        "probes.evaluation",
        "probes.evidence",
        "probes.metrics",
        "steering.operators",
        "experiments.statistics",
    ),
]
with install_import_hook(CHECKED, "beartype.beartype"):
    import experiments.statistics  # noqa: F401
    import probes
    import steering  # noqa: F401

# The same examples in every run, however slow the machine.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

TEXTS = [
    "The ferry left early.",
    "Nobody had asked the gardener about the apples, and so he said nothing at all.",
    "Rain fell.",
    "The machine counted the grain again and wrote the true number in the book for everyone to see.",
    "She laughed, then closed the window.",
]

SMALL = {"vocab_size": 400, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4}
LLAMA_LIKE = {
    **SMALL,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _configs() -> dict[str, transformers.PreTrainedConfig]:
    t = transformers
    return {
        "llama": t.LlamaConfig(**LLAMA_LIKE, **IDS),
        "gemma3": t.Gemma3TextConfig(**LLAMA_LIKE, head_dim=8, sliding_window=16, **IDS),
        "qwen3": t.Qwen3Config(**LLAMA_LIKE, head_dim=8, **IDS),
        "mistral": t.MistralConfig(**LLAMA_LIKE, sliding_window=None, **IDS),
        "gpt2": t.GPT2Config(
            vocab_size=400, n_layer=3, n_embd=32, n_head=4, n_positions=128, **IDS
        ),
        "gpt_neox": t.GPTNeoXConfig(
            **SMALL, intermediate_size=48, max_position_embeddings=128, **IDS
        ),
        "opt": t.OPTConfig(
            **SMALL, ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=32, **IDS
        ),
        "phi": t.PhiConfig(**SMALL, intermediate_size=48, max_position_embeddings=128, **IDS),
        "olmo2": t.Olmo2Config(**LLAMA_LIKE, **IDS),
        "mixtral": t.MixtralConfig(**LLAMA_LIKE, num_local_experts=4, num_experts_per_tok=2, **IDS),
    }


ARCHITECTURES = tuple(_configs())


@cache
def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 400 entries that adds one BOS and knows a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    wrapped.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return wrapped


def tiny_model(
    architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> probes.LanguageModel:
    """A fresh model of an architecture with random weights, spread wide enough to differ by token."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(_configs()[architecture], dtype=dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15 if "embed" in name or "wte" in name else 0.12)
    model.generation_config.eos_token_id = None  # random models would stop anywhere
    return probes.wrap(
        model, tiny_tokenizer(), name=f"tiny-{architecture}", identity=f"{architecture}-{seed}"
    )


@pytest.fixture
def llama() -> probes.LanguageModel:
    return tiny_model("llama")


@pytest.fixture(params=ARCHITECTURES)
def any_model(request: pytest.FixtureRequest) -> probes.LanguageModel:
    return tiny_model(request.param)
