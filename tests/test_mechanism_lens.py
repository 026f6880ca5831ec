"""The logit lens against finite differences through the model's own norm; norms with a frozen scale."""

import copy
import json
import sys

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

import probes
from probes.logit_lens import _readable, final_norm, logit_lens, quoted
from probes.norms import read_norm
from tests.conftest import ARCHITECTURES, tiny_model
from tests.mechanism import CLOSE, direction_of, hooks_of, uneven


@given(seed=st.integers(0, 10_000), width=st.sampled_from([4, 8, 32]), size=st.floats(0.01, 1e4))
@settings(max_examples=30, deadline=None)
def test_a_frozen_norm_gives_what_the_norm_gave_and_its_adjoint(seed, width, size):
    generator = torch.Generator().manual_seed(seed)
    gemma = transformers.models.gemma3.modeling_gemma3.Gemma3RMSNorm(width)
    for module in (torch.nn.LayerNorm(width), torch.nn.RMSNorm(width, eps=1e-6), gemma):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn(width, generator=generator)
        norm = read_norm(module, width)
        assert norm.centres == isinstance(module, torch.nn.LayerNorm)
        x = torch.randn(2, 3, width, generator=generator) * size
        y = module(x).detach()
        torch.testing.assert_close(norm.push(x) * norm.scale(x, y) + norm.shift, y, **CLOSE)
        u = torch.randn(width, generator=generator)
        torch.testing.assert_close(norm.push(x) @ u, x @ norm.pull(u), rtol=1e-3, atol=1e-3 * size)


def test_what_is_no_norm_is_refused_and_a_norms_hooks_do_not_run():
    with pytest.raises(probes.ModelError, match="Linear is no RMS or layer norm"):
        read_norm(torch.nn.Linear(8, 8), 8)
    with pytest.raises(probes.ModelError, match="Tanh is no"):
        read_norm(torch.nn.Tanh(), 8)
    module = torch.nn.LayerNorm(8).to(torch.bfloat16)
    ran = []
    module.register_forward_hook(lambda *_: ran.append(1))
    assert read_norm(module, 8).gain.dtype == torch.float32
    assert module.weight.dtype == torch.bfloat16
    assert ran == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_lens_is_the_logit_change_of_a_small_push(architecture):
    """By finite differences through the model's own norm, on a residual the push leaves as long as it was."""
    model, direction = uneven(architecture), direction_of()
    unit = direction.at(2).double()
    norm = next(
        module
        for name, module in model.model.double().named_modules()
        if "norm" in name.lower().replace("ln_f", "norm")
        and ".layers." not in name
        and ".h." not in name
    )
    head = model.model.get_output_embeddings()
    centres = isinstance(norm, torch.nn.LayerNorm)
    residual = torch.randn(32, generator=torch.Generator().manual_seed(0)).double() * 50
    if centres:
        residual -= residual.mean()
        across = unit - unit.mean()
    else:
        across = unit
    residual -= (residual @ across) / (across @ across) * across
    step = 1e-2  # some norms compute in float32 whatever they are given

    def logits(h):
        with torch.no_grad():
            return head(norm(h[None, None]))[0, 0]

    push = step * residual.norm() * unit
    change = (logits(residual + push) - logits(residual - push)) / (2 * step)
    model.model.float()
    values = logit_lens(model, direction).values.double()
    named = change[: len(model.tokenizer)]
    torch.testing.assert_close(values, named - named.mean(), rtol=1e-3, atol=1e-3)
    assert final_norm(model).centres == centres
    assert hooks_of(model) == 0


def test_a_tokens_own_direction_raises_that_token(llama):
    rows = llama.model.get_output_embeddings().weight.detach()
    word = llama.tokenizer(" the", add_special_tokens=False).input_ids[0]
    vector = (rows[word] - rows.mean(0))[None].expand(3, -1)
    lens = logit_lens(llama, probes.Direction.from_vectors(vector, (0, 1, 2), layer=1), top=3)
    assert lens.raised[0][0] == llama.tokenizer.decode([word])
    assert lens.values.argmax() == word
    assert lens.changes[0] == lens.values.max()
    assert lens.changes[3] == lens.values.min()
    assert [change for _, change in lens.lowered] == sorted(change for _, change in lens.lowered)
    assert float(lens.values.mean()) == pytest.approx(0, abs=1e-5)
    assert quoted(lens.raised[0][0]) in str(lens)


def test_a_large_vocabulary_is_read_in_parts_and_half_precision_is_close(llama, monkeypatch):
    whole = logit_lens(llama, direction_of())
    monkeypatch.setattr(sys.modules["probes.logit_lens"], "_ROWS_AT_ONCE", 7)
    torch.testing.assert_close(logit_lens(llama, direction_of()).values, whole.values, **CLOSE)
    half = logit_lens(tiny_model("llama", dtype=torch.bfloat16), direction_of())
    assert half.compare(whole) > 0.999


def test_readings_of_two_checkpoints_are_compared(llama):
    one = logit_lens(llama, direction_of(), top=3)
    other = tiny_model("llama")
    word = 300
    with torch.no_grad():
        other.model.get_output_embeddings().weight[word] += 9 * direction_of().at(2)
    two = logit_lens(other, direction_of(), top=3)
    change = two - one
    assert change.raised[0][0] == other.tokenizer.decode([word])
    others = -change.values.max().item() / (len(change.values) - 1)
    assert float(change.values.median()) == pytest.approx(others, rel=0.01)
    assert one.compare(one) == pytest.approx(1)
    mirrored = probes.Direction.from_vectors(-direction_of().vectors, (0, 1, 2), layer=2)
    assert one.compare(logit_lens(llama, mirrored)) == pytest.approx(-1)
    smaller = probes.wrap(llama.model, llama.tokenizer)
    smaller.model.lm_head = torch.nn.Linear(32, 300, bias=False)
    with pytest.raises(probes.DataError, match="300 tokens"):
        one - logit_lens(smaller, direction_of())
    with pytest.raises(TypeError):
        one - 1
    with pytest.raises(probes.DataError, match="layers 2 and 1"):
        two - logit_lens(other, direction_of(), layer=1)


def test_a_difference_of_readings_says_that_it_is_one(llama):
    one, two = (logit_lens(tiny_model("llama", seed=k), direction_of()) for k in (0, 1))
    heading = "villain of layer 2, one model minus the other"
    assert str(two - one).startswith(f"{heading}, logits per unit")
    assert (two - one).to_json()["what"] == heading
    assert (two - one).to_json()["model"] == "llama-1 - llama-0"
    assert str(one).startswith("villain of layer 2, logits per unit")


def test_readings_over_other_tokens_are_not_compared(llama):
    one = logit_lens(llama, direction_of())
    same = probes.wrap(llama.model, copy.deepcopy(llama.tokenizer))
    assert one.compare(logit_lens(same, direction_of())) == pytest.approx(1)
    stored = json.loads(llama.tokenizer.backend_tokenizer.to_str())
    words = stored["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    swapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(stored)), bos_token="<s>", pad_token="<pad>"
    )
    other = logit_lens(probes.wrap(llama.model, swapped), direction_of())
    for compare in (one.compare, one.__sub__):
        with pytest.raises(probes.DataError, match="not the same ones"):
            compare(other)


def test_a_norm_that_accelerate_placed_is_read_in_float32():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    norm = torch.nn.LayerNorm(8).to(torch.bfloat16)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 8))
    expected = read_norm(norm, 8).gain
    add_hook_to_module(norm, AlignDevicesHook(execution_device="cpu"))
    assert torch.equal(read_norm(norm, 8).gain, expected)


@pytest.mark.parametrize("top", [0, 201, True, 1.5])
def test_a_number_of_tokens_that_cannot_be_listed_is_named(llama, top):
    with pytest.raises(probes.DataError, match="from 1 to"):
        logit_lens(llama, direction_of(), top=top)


def test_an_adapter_on_the_unembedding_is_refused(llama):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["lm_head"], r=2)
    adapted = probes.wrap(get_peft_model(llama.model, config), llama.tokenizer)
    with pytest.raises(probes.ModelError, match="merge an adapter"):
        logit_lens(adapted, direction_of())


def test_a_token_is_shown_with_its_spaces():
    assert quoted(" the\n") == "␣the⏎"
    assert len(quoted("x" * 40)) == 16
    assert quoted("a\u200bb") == "a�b"


def test_a_leading_space_that_a_decoder_drops_is_put_back():
    vocabulary = {"▁the": 0, "the": 1, "<unk>": 2}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    assert tokenizer.decode([0]) == tokenizer.decode([1]) == "the"
    assert [_readable(tokenizer, token) for token in (0, 1)] == [" the", "the"]
