"""Faults of padding, pooling and special tokens that other tools had: see each test's name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from probes.pooling import on_grid, pooling_weights
from probes.tokens import Tokens, encode, pad
from tests.conftest import TEXTS, tiny_model, tiny_tokenizer


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
