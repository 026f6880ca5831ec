"""Faults of hooks and of the key-value cache under steering that other tools had."""

import pytest
import torch

import probes
import steering
from probes.attribution import attribute
from probes.logit_lens import logit_lens
from probes.tracing import trace_tokens
from tests.conftest import TEXTS, tiny_model
from tests.test_steering import all_equal, direction_for, logits


def hook_count(model: probes.LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


@pytest.mark.parametrize("make", [lambda d: steering.Add(d, 0.7), steering.Ablate])
def test_greedy_tokens_are_the_same_with_and_without_the_cache(any_model, make):
    direction = direction_for(any_model)
    with steering.steer(any_model, make(direction)):
        cached = any_model.generate(TEXTS, max_new_tokens=8)
        fresh = any_model.generate(TEXTS, max_new_tokens=8, use_cache=False)
    assert cached == fresh


def test_the_first_generated_token_is_steered(llama):
    target = 77
    unembed = llama.model.lm_head.weight[target].detach()
    direction = probes.Direction.from_vectors(unembed[None], (2,), norms=torch.ones(1))
    with steering.steer(llama, steering.Add(direction, 1e4, units="raw")):
        first = [llama.generate(text, max_new_tokens=1)[0] for text in TEXTS]
    assert first == [llama.tokenizer.decode([target])] * len(TEXTS)


def test_after_the_block_the_model_is_untouched(any_model):
    before, count = logits(any_model), hook_count(any_model)
    direction = direction_for(any_model)
    with steering.steer(any_model, steering.Add(direction, 3.0), steering.Ablate(direction)):
        assert not all_equal(before, logits(any_model))
    assert hook_count(any_model) == count
    assert all_equal(before, logits(any_model))


@pytest.mark.parametrize("where", ["body", "forward", "entering", "capture"])
def test_after_an_exception_anywhere_the_model_is_untouched(llama, where):
    before, count = logits(llama), hook_count(llama)
    direction = direction_for(llama)

    class Broken:
        at_layers, d_model = (0, 1), 32

        def edit_at(self, layer, device):
            if where == "entering" and layer == 1:
                raise RuntimeError("no edit here")

            def edit(hidden):
                if where in ("forward", "capture"):
                    raise RuntimeError("the edit failed")
                return hidden

            return edit

    with pytest.raises(RuntimeError), steering.steer(llama, steering.Add(direction, 1.0), Broken()):
        if where == "capture":
            probes.capture(llama, TEXTS)
        elif where == "forward":
            llama.generate(TEXTS, max_new_tokens=2)
        raise RuntimeError("in the body")
    assert hook_count(llama) == count
    assert all_equal(before, logits(llama))


def test_a_users_own_hooks_survive_and_still_fire(llama):
    calls = []
    llama.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    llama.model.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.append(2))
    count = hook_count(llama)
    with steering.steer(llama, steering.Add(direction_for(llama), 1.0)):
        logits(llama)
    probes.capture(llama, TEXTS)
    assert hook_count(llama) == count
    calls.clear()
    logits(llama)
    assert sorted(calls) == [1, 2]


def test_nested_steering_unwinds_in_order(llama):
    direction = direction_for(llama)
    add = steering.Add(direction, 1.0)
    with steering.steer(llama, add):
        once = logits(llama)
        with steering.steer(llama, add):
            assert not all_equal(once, logits(llama))
        assert all_equal(once, logits(llama))


READERS = {
    "capture": lambda model, direction: probes.capture(model, TEXTS),
    "trace": lambda model, direction: trace_tokens(model, TEXTS[0], direction.at_layer(2)),
    "attribute": lambda model, direction: attribute(model, TEXTS, direction, layer=2),
    "lens": lambda model, direction: logit_lens(model, direction, layer=2),
}


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_reading_leaves_a_hook_behind_when_a_block_fails(llama, read, broken):
    """Hooks registered before the `try` outlive an error, and the next reading measures twice."""
    direction = direction_for(llama)
    handle = llama.blocks[1].mlp.register_forward_hook(lambda *_: None)  # the user's own
    before, count = logits(llama), hook_count(llama)
    llama.blocks[broken].forward = lambda *args, **options: 1 / 0
    with pytest.raises(ZeroDivisionError):
        read(llama, direction)
    assert hook_count(llama) == count
    del llama.blocks[broken].forward
    assert all_equal(before, logits(llama))
    read(llama, direction)
    assert hook_count(llama) == count
    assert handle.id in llama.blocks[1].mlp._forward_hooks


def test_an_edit_reaches_blocks_that_return_a_tuple():
    """Some versions of transformers return a tuple from a block; only its first entry may move."""
    plain, wrapped = tiny_model("llama"), tiny_model("llama")
    inner = wrapped.blocks[0].forward
    wrapped.blocks[0].forward = lambda *args, **options: (inner(*args, **options), "beside it")
    direction, rest = direction_for(plain, layer=0), []
    with steering.steer(plain, steering.Add(direction, 0.5)):
        expected = probes.capture(plain, TEXTS, layers=0)
    with steering.steer(wrapped, steering.Add(direction, 0.5)):
        wrapped.blocks[0].register_forward_hook(lambda module, args, output: rest.append(output[1]))
        acts = probes.capture(wrapped, TEXTS, layers=0)  # deeper blocks would be fed the tuple
    assert torch.equal(acts.values, expected.values)
    assert not torch.allclose(acts.values, probes.capture(plain, TEXTS, layers=0).values)
    assert rest == ["beside it"]
