"""Steering: exact edits, batching, padding, the key-value cache, and leaving no trace."""

import math

import pytest
import torch

import probes
import steering
from probes.tokens import encode, pad
from tests.conftest import TEXTS, tiny_model


def direction_for(
    model: probes.LanguageModel, *, layer: int | None = 1, seed: int = 0
) -> probes.Direction:
    acts = probes.capture(model, TEXTS, pool="mean")
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 32, generator=generator)
    return probes.Direction.from_vectors(
        vectors, (0, 1, 2), norms=acts.norms, layer=layer, name="test"
    )


def logits(model: probes.LanguageModel, side: str = "right") -> list[torch.Tensor]:
    """Logits of the real tokens of every text, run as one padded batch."""
    encoded = encode(model.tokenizer, TEXTS)
    batch = pad(encoded, 0, side)
    with torch.no_grad():
        out = model.model(**batch.to(model.device)).logits
    return [row[mask.bool()] for row, mask in zip(out, batch.attention_mask, strict=True)]


def all_equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_add_moves_the_stream_by_a_fraction_of_its_norm(any_model):
    direction = direction_for(any_model)
    before = probes.capture(any_model, TEXTS, pool="last", layers=1).values
    with steering.steer(any_model, steering.Add(direction, strength=0.3)):
        after = probes.capture(any_model, TEXTS, pool="last", layers=1).values
    moved = 0.3 * direction.norms[1] * direction.at(1)
    torch.testing.assert_close(after - before, moved.expand_as(after), rtol=1e-3, atol=1e-4)


def test_raw_units_add_the_vector_itself(llama):
    direction = direction_for(llama)
    before = probes.capture(llama, TEXTS, layers=2).values
    with steering.steer(llama, steering.Add(direction, strength=2.5, units="raw", layers=[2])):
        after = probes.capture(llama, TEXTS, layers=2).values
    torch.testing.assert_close(
        after - before, (2.5 * direction.at(2)).expand_as(after), rtol=1e-4, atol=1e-4
    )


def test_ablate_leaves_no_projection_at_any_layer(any_model):
    direction = direction_for(any_model)
    with steering.steer(any_model, steering.Ablate(direction)):
        projections = direction.project(probes.capture(any_model, TEXTS, pool="mean"))
    assert projections.abs().max() < 1e-4
    assert direction.project(probes.capture(any_model, TEXTS, pool="mean")).abs().max() > 1e-2


@pytest.mark.parametrize("make", [lambda d: steering.Add(d, 0.5), steering.Ablate])
def test_steered_logits_do_not_depend_on_batch_or_padding(any_model, make):
    direction = direction_for(any_model)
    with steering.steer(any_model, make(direction)):
        right, left = logits(any_model, "right"), logits(any_model, "left")
        with torch.no_grad():
            alone = [
                any_model.model(input_ids=torch.tensor([t.ids])).logits[0]
                for t in encode(any_model.tokenizer, TEXTS)
            ]
    for a, b, c in zip(right, left, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-3)


def moved(model, ids):
    """Which positions `[text, position]` of the first block's output an edit there moves; 0 pads."""
    seen: list[torch.Tensor] = []

    def stream():
        # Registered after the edit's own hook, so that it sees what the edit left.
        handle = model.blocks[0].register_forward_hook(
            lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o)
        )
        with torch.no_grad():
            model.model(input_ids=ids, attention_mask=(ids != 0).long())
        handle.remove()

    stream()
    with steering.steer(model, steering.Add(direction_for(model, layer=0), 1.0)):
        stream()
    return (seen[1] - seen[0]).norm(dim=-1) > 1e-3


def test_bos_is_not_moved(llama):
    ids = torch.tensor([[1, 11, 12, 13], [0, 1, 14, 15]])
    assert moved(llama, ids)[ids != 0].tolist() == [False, True, True, True, False, True, True]


def test_only_the_bos_that_opens_a_text_is_spared(llama):
    """A chat template may open every turn with BOS; its later ones are text."""
    ids = torch.tensor([[0, 1, 10, 1, 11], [1, 12, 13, 1, 14]])
    chosen = moved(llama, ids)[ids != 0].tolist()
    assert chosen == [False, True, True, True, False, True, True, True, True]


def test_several_interventions_apply_in_order(llama):
    direction = direction_for(llama)
    add = steering.Add(direction, 1.0, layers=[1])
    ablate = steering.Ablate(direction, layers=[1])
    with steering.steer(llama, add, ablate):
        removed = direction.project(probes.capture(llama, TEXTS))[:, 1]
    with steering.steer(llama, ablate, add):
        added = direction.project(probes.capture(llama, TEXTS))[:, 1]
    assert removed.abs().max() < 1e-4
    torch.testing.assert_close(added, direction.norms[1].expand_as(added), rtol=1e-3, atol=1e-3)


def test_generation_continues_each_prompt_alone_as_in_a_batch(any_model):
    direction = direction_for(any_model)
    with steering.steer(any_model, steering.Add(direction, 0.5)):
        together = any_model.generate(TEXTS, max_new_tokens=6)
        alone = [any_model.generate(text, max_new_tokens=6)[0] for text in TEXTS]
    assert together == alone


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone(llama):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = llama.generate(TEXTS, max_new_tokens=8, do_sample=True, seed=3)
    assert torch.equal(torch.rand(1), expected)
    assert first == llama.generate(TEXTS, max_new_tokens=8, do_sample=True, seed=3)
    assert first != llama.generate(TEXTS, max_new_tokens=8, do_sample=True, seed=4)


def test_bfloat16_models_keep_their_dtype():
    model = tiny_model("llama", dtype=torch.bfloat16)
    direction = direction_for(model)
    with steering.steer(model, steering.Add(direction, 0.5), steering.Ablate(direction)):
        assert logits(model)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
def test_a_strength_that_is_not_finite_is_refused(llama, strength):
    with pytest.raises(probes.DataError, match="not a finite number"):
        steering.Add(direction_for(llama), strength)


def test_other_bad_input_is_named(llama):
    direction = direction_for(llama)
    bare = probes.Direction.from_vectors(direction.vectors, direction.layers)
    with pytest.raises(probes.DataError, match='units="raw"'):
        steering.Add(bare, 0.1)
    with pytest.raises(probes.DataError, match=r"pass layers="):
        steering.Add(bare, 0.1, units="raw")
    with pytest.raises(probes.DataError, match="unknown"):
        steering.Add(direction, 0.1, units="percent")
    with pytest.raises(probes.LayerError, match="no layer 7"):
        steering.Ablate(direction, layers=[7])
    with pytest.raises(probes.DataError, match="layers is empty"):
        steering.Ablate(direction, layers=[])
    deep = probes.Direction.from_vectors(torch.randn(1, 32), (9,), norms=torch.ones(1))
    with (
        pytest.raises(probes.LayerError, match="layer 9 is out of range"),
        steering.steer(llama, steering.Add(deep)),
    ):
        pass
    wide = probes.Direction.from_vectors(torch.randn(1, 64), (1,), norms=torch.ones(1))
    with (
        pytest.raises(probes.DataError, match="width 64"),
        steering.steer(llama, steering.Add(wide)),
    ):
        pass
