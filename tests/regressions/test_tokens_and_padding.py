"""Faults of padding, pooling and special tokens that other tools had: see each test's name."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from probes.pooling import on_grid, pooling_weights
from probes.tokens import Tokens, encode, pad
from tests.conftest import TEXTS, tiny_model, tiny_tokenizer
from tests.test_capture import by_hand


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "gpt_neox"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_shift_activations(architecture, side):
    model = tiny_model(architecture)
    together = probes.capture(model, TEXTS, padding_side=side).values
    alone = torch.cat([probes.capture(model, [text]).values for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=5e-4, atol=5e-5)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    bos=st.booleans(),
    side=st.sampled_from(["left", "right"]),
    pool=st.sampled_from(["last", "mean"]),
)
def test_pooling_weights_never_touch_padding_or_bos(lengths, bos, side, pool):
    texts = [Tokens(tuple(range(10, 10 + n + bos)), None, "", int(bos)) for n in lengths]
    batch = pad(texts, 0, side)
    grid = on_grid(pooling_weights(texts, pool), batch)
    assert torch.isfinite(grid).all()
    torch.testing.assert_close(grid.sum(-1), torch.ones(len(texts)))
    assert (grid[batch.attention_mask == 0] == 0).all()
    for row, text in enumerate(texts):
        real = grid[row][batch.attention_mask[row].bool()]
        assert real[-1] > 0
        assert not bos or real[0] == 0
        assert (real > 0).sum() == (1 if pool == "last" else len(text) - bos)
        assert batch.position_ids[row][batch.attention_mask[row].bool()].tolist() == list(
            range(len(text))
        )


def test_padded_positions_may_hold_nan(llama):
    def poison(module, args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[1, -1] = float("nan")  # the shorter text's padding
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    texts = [TEXTS[1], TEXTS[2]]
    clean = probes.capture(llama, texts, pool="mean", layers=2)
    llama.blocks[2].register_forward_hook(poison)
    torch.testing.assert_close(
        probes.capture(llama, texts, pool="mean", layers=2).values, clean.values
    )


def test_a_range_that_covers_no_token_is_an_error_and_no_nan(llama):
    with pytest.raises(probes.DataError, match="text 1 covers no token"):
        probes.capture(llama, TEXTS[:2], pool=[(0, 3), (5, 5)])


def test_the_last_layer_is_the_block_output_and_not_the_normed_hidden_state(any_model):
    ids = torch.tensor([encode(any_model.tokenizer, TEXTS[:1])[0].ids])
    with torch.no_grad():
        states = any_model.model(input_ids=ids, output_hidden_states=True).hidden_states
    acts = probes.capture(any_model, TEXTS[:1])
    for layer in range(any_model.n_layers - 1):
        torch.testing.assert_close(
            acts.at(layer)[0], states[layer + 1][0, -1], rtol=5e-4, atol=5e-5
        )
    if (
        any_model.name != "tiny-opt"
    ):  # OPT with this configuration has no final norm to be confused by
        assert not torch.allclose(acts.at(2)[0], states[3][0, -1], rtol=1e-2)


@pytest.mark.parametrize("wrapped", [True, False])
def test_blocks_may_return_a_tensor_or_a_tuple(wrapped):
    model = tiny_model("llama")
    expected = probes.capture(model, TEXTS).values
    for block in model.blocks:
        inner = block.forward

        def forward(*args, inner=inner, **options):
            output = inner(*args, **options)
            output = output[0] if isinstance(output, tuple) else output
            return (output,) if wrapped else output

        block.forward = forward
    if not wrapped:
        assert torch.equal(probes.capture(model, TEXTS).values, expected)
        return
    seen = probes.capture(model, TEXTS, layers=0).values  # deeper blocks would be fed the tuple
    assert torch.equal(seen[:, 0], expected[:, 0])


def test_a_block_that_returns_no_stream_is_named():
    model = tiny_model("llama")
    model.blocks[0].forward = lambda *args, **options: torch.zeros(3, 4)
    with pytest.raises(probes.ModelError, match=r"instead of \[batch, token, d_model\]"):
        probes.capture(model, TEXTS, layers=0)


@pytest.mark.parametrize(
    "text",
    [
        "<s>The ferry left.",
        "<s><s>The ferry left.",
        "The ferry left.",
        [{"role": "user", "content": "The ferry left."}],
    ],
)
def test_there_is_one_bos_and_no_more(text):
    tokens = encode(tiny_tokenizer(), [text])[0]
    assert tokens.ids[0] == 1
    assert tokens.ids.count(1) == tokens.bos == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_the_batch(dtype):
    model = tiny_model("llama", dtype=dtype)
    one = probes.capture(model, TEXTS * 4, pool="mean", batch_tokens=1).values
    many = probes.capture(model, TEXTS * 4, pool="mean", batch_tokens=4096).values
    limit = 5e-5 if dtype == torch.float32 else 1e-2
    assert (one - many).norm() / one.norm() < limit
    assert one.dtype == torch.float32


@pytest.mark.parametrize("container", [list, dict])
def test_a_chat_is_read_alike_whatever_the_template_call_returns(monkeypatch, container):
    """transformers 5 returns a mapping where 4 returned a list of ids; ours depends on neither."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    chat = [{"role": "user", "content": "The ferry left."}]
    expected = encode(tokenizer, [chat])[0].ids
    render = tokenizer.apply_chat_template

    def either(messages, *, tokenize=True, **options):
        text = render(messages, tokenize=False, **options)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if not tokenize else ids if container is list else {"input_ids": ids}

    monkeypatch.setattr(tokenizer, "apply_chat_template", either)
    assert encode(tokenizer, [chat])[0].ids == expected
    assert expected == tuple(
        tokenizer("<s>[user] The ferry left.\n[assistant]", add_special_tokens=False)["input_ids"]
    )


def test_no_limit_of_the_tokenizer_cuts_a_text_short():
    """A tokenizer may come with a `max_length` of its own, far below the model's context."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    whole = encode(tokenizer, TEXTS)
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.model_max_length = 3
    assert encode(tokenizer, TEXTS) == whole
    assert min(len(tokens) for tokens in whole) > 3
    with pytest.raises(probes.DataError, match=r"text 1 has \d+ tokens .* holds 12"):
        encode(tokenizer, TEXTS, max_length=12)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_means_of_a_bfloat16_stream_are_summed_in_float32(architecture):
    """Summed in bfloat16, a mean over tokens is off in its third digit, which passes for noise."""
    model = tiny_model(architecture, dtype=torch.bfloat16)
    for text in TEXTS[1], TEXTS[3]:
        inner = by_hand(model, text)[:, 1:].double()
        acts = probes.capture(model, [text], pool="mean")
        torch.testing.assert_close(acts.values[0].double(), inner.mean(1), rtol=1e-5, atol=1e-6)
        norms = inner.norm(dim=-1).mean(-1)
        torch.testing.assert_close(acts.norms.double(), norms, rtol=1e-5, atol=1e-6)


def test_a_pad_token_that_is_eos_hides_no_eos_of_a_text(llama):
    """Where padding is told by its id, the end of every text is taken for padding."""
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    model = probes.wrap(llama.model, tokenizer)
    texts = [f"{text}</s>" for text in TEXTS]
    alone = [by_hand(model, text) for text in texts]
    for pool, wanted in (
        ("last", [hidden[:, -1] for hidden in alone]),
        ("mean", [hidden[:, 1:].mean(1) for hidden in alone]),
    ):
        for side in ("left", "right"):
            acts = probes.capture(model, texts, pool=pool, padding_side=side)
            torch.testing.assert_close(acts.values, torch.stack(wanted), rtol=5e-4, atol=5e-5)
