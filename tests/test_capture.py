"""Capture against hooks by hand, for every architecture, padding side and batch size."""

import copy

import pytest
import torch

import probes
from probes.capture import for_each_batch
from tests.conftest import ARCHITECTURES, TEXTS, tiny_model

TOLERANCE = {"rtol": 5e-4, "atol": 5e-5}


def by_hand(model: probes.LanguageModel, text: str) -> torch.Tensor:
    """Block outputs `[layer, token, d_model]` of one unpadded text, from plain forward hooks."""
    seen = {}
    handles = [
        block.register_forward_hook(
            lambda m, a, o, k=k: seen.update({k: (o[0] if isinstance(o, tuple) else o)[0].detach()})
        )
        for k, block in enumerate(model.blocks)
    ]
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        model.model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return torch.stack([seen[k] for k in range(model.n_layers)])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_capture_equals_hooks_by_hand(any_model, side, batch_tokens):
    texts = (TEXTS * 4)[:16]
    expected = {text: by_hand(any_model, text) for text in TEXTS}
    for pool, reduce in (("last", lambda h: h[:, -1]), ("mean", lambda h: h[:, 1:].mean(1))):
        acts = probes.capture(
            any_model, texts, pool=pool, batch_tokens=batch_tokens, padding_side=side
        )
        assert acts.values.shape == (16, 3, 32)
        assert acts.values.dtype == torch.float32
        wanted = torch.stack([reduce(expected[text]) for text in texts])
        torch.testing.assert_close(acts.values, wanted, **TOLERANCE)


def test_activations_can_be_trained_on_and_changed(llama):
    values = probes.capture(llama, TEXTS).values
    weights = torch.zeros(32, requires_grad=True)
    (values @ weights).sum().backward()
    values -= 1
    assert weights.grad is not None


def test_norms_are_the_mean_token_norm_without_bos(llama):
    acts = probes.capture(llama, TEXTS, pool="last")
    wanted = torch.stack(
        [by_hand(llama, text)[:, 1:].norm(dim=-1).mean(-1) for text in TEXTS]
    ).mean(0)
    torch.testing.assert_close(acts.norms, wanted, **TOLERANCE)


def test_a_tokenizer_without_bos_or_pad_works_and_its_first_token_is_no_norm(llama):
    from tokenizers import processors

    bare = copy.deepcopy(llama.tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    bare.bos_token = bare.pad_token = None
    model = probes.wrap(llama.model, bare)
    acts = probes.capture(model, TEXTS, pool="mean")
    hidden = [by_hand(model, text) for text in TEXTS]
    wanted = torch.stack([h.mean(1) for h in hidden])
    torch.testing.assert_close(acts.values, wanted, **TOLERANCE)
    norms = torch.stack([h[:, 1:].norm(dim=-1).mean(-1) for h in hidden]).mean(0)
    torch.testing.assert_close(acts.norms, norms, **TOLERANCE)
    alone = [model.generate(text, max_new_tokens=5)[0] for text in TEXTS]
    assert model.generate(TEXTS, max_new_tokens=5) == alone


def test_spans_average_the_tokens_they_overlap(llama):
    text = TEXTS[1]
    start = text.index("gardener")
    acts = probes.capture(llama, [text, text], pool=[(start, start + 8), (0, len(text))])
    tokens = llama.tokenizer(text, return_offsets_mapping=True).offset_mapping
    inside = [k for k, (a, b) in enumerate(tokens) if a < start + 8 and b > start]
    hidden = by_hand(llama, text)
    torch.testing.assert_close(acts.values[0], hidden[:, inside].mean(1), **TOLERANCE)
    torch.testing.assert_close(acts.values[1], hidden[:, 1:].mean(1), **TOLERANCE)


def test_chats_are_rendered_with_one_bos_and_an_answer_cue(llama):
    chat = [{"role": "user", "content": "Who counted the grain?"}]
    acts = probes.capture(llama, [chat, TEXTS[0]], pool="last")
    rendered = "[user] Who counted the grain?\n[assistant]"
    torch.testing.assert_close(acts.values[0], by_hand(llama, rendered)[:, -1], **TOLERANCE)


def test_layers_are_given_in_the_order_asked_and_the_rest_is_not_computed(llama):
    ran = []
    llama.blocks[2].register_forward_hook(lambda *_: ran.append(2))
    llama.model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    acts = probes.capture(llama, TEXTS, layers=[1, 0])
    every = probes.capture(tiny_model("llama"), TEXTS)
    assert acts.layers == (1, 0)
    assert ran == []
    torch.testing.assert_close(acts.at(0), every.at(0), **TOLERANCE)
    torch.testing.assert_close(acts.at(1), every.at(1), **TOLERANCE)
    probes.capture(llama, TEXTS)
    assert "head" not in ran


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_bfloat16_stays_within_its_noise_floor(architecture):
    wide = probes.capture(tiny_model(architecture), TEXTS, pool="mean")
    narrow = probes.capture(tiny_model(architecture, dtype=torch.bfloat16), TEXTS, pool="mean")
    error = (wide.values - narrow.values).norm() / wide.values.norm()
    assert error < 1e-2


def test_what_eager_attention_makes_of_padding_in_float64_is_refused_with_advice_that_helps():
    # Its softmax is in float32, where float64's mask is an infinity: rows of padding become NaN.
    model = tiny_model("llama", dtype=torch.float64)
    expected = probes.capture(model, TEXTS, pool="mean", batch_tokens=1)
    model.model.set_attn_implementation("eager")
    broken = probes.capture(model, TEXTS, pool="mean", padding_side="left")
    with pytest.raises(
        probes.DataError, match=r"layer 1.*model\.model\.set_attn_implementation\('sdpa'\)"
    ):
        broken.check_finite()
    model.model.set_attn_implementation("sdpa")
    mended = probes.capture(model, TEXTS, pool="mean", padding_side="left")
    torch.testing.assert_close(mended.values, expected.values)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost():
    done, calls = [], []

    def measure(rows):
        calls.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(rows)

    assert sum(for_each_batch([5] * 20, 100, measure)) == 20
    assert sorted(done) == list(range(20))
    assert calls[0] == 20
    assert max(calls[3:]) <= 3


def test_a_single_text_that_does_not_fit_is_named():
    def measure(rows):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    with pytest.raises(probes.ModelError, match=r"text 1 alone \(7 tokens\)"):
        list(for_each_batch([3, 7], 8, measure))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def measure(rows):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(for_each_batch([3], 8, measure))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "at least one text"),
        ("one string", {}, "pass a list"),
        ([""], {}, "text 0 is empty"),
        (["fine", "word " * 400], {}, "text 1 has .* tokens but the model's context holds 128"),
        (TEXTS, {"layers": 3}, "layer 3 is out of range: the model has layers 0 to 2"),
        (TEXTS, {"layers": [0, 0]}, "each once"),
        (TEXTS, {"layers": [-1]}, "layer -1 is out of range"),
        ([None], {}, "text 0 is not a chat"),
        ([["a", "b"]], {}, "text 0 is not a chat"),
        (TEXTS, {"pool": "max"}, "pool 'max' is unknown"),
        (TEXTS, {"pool": [(0, 1)]}, "1 ranges were given for 5 texts"),
        (TEXTS, {"pool": [(900, 901)] * 5}, "covers no token"),
        ([[{"role": "user"}]], {}, "text 0 is not a chat"),
    ],
)
def test_bad_input_is_named(llama, texts, options, message):
    with pytest.raises(probes.StorypriorError, match=message):
        probes.capture(llama, texts, **options)


def test_an_unknown_architecture_names_the_argument_that_fixes_it():
    model = tiny_model("llama")
    model.model.config.num_hidden_layers = 99
    with pytest.raises(probes.ModelError, match=r'blocks="path.to.layers"'):
        probes.wrap(model.model, model.tokenizer)
    fixed = probes.wrap(model.model, model.tokenizer, blocks="model.layers")
    assert fixed.n_layers == 3
    with pytest.raises(probes.ModelError, match="no module"):
        probes.wrap(model.model, model.tokenizer, blocks="model.nowhere")


def test_the_promised_architectures_are_the_ones_tested():
    assert set(ARCHITECTURES) == {
        "llama", "gemma3", "qwen3", "mistral", "gpt2", "gpt_neox", "opt", "phi", "olmo2", "mixtral",
    }  # fmt: skip
