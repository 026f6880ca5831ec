"""Frozen, refitted and aligned readings on checkpoints whose change is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import probes
from tests.conftest import TEXTS, tiny_model
from tests.test_probes import planted

WIDTH = 24


def measured(change, *, size=3.0):
    """Base and tuned activations, labels, groups and neutral texts; `change` makes tuned from base."""
    acts, labels, groups, _ = planted(families=80, size=size)
    noise = torch.Generator().manual_seed(9)
    neutral = probes.Activations(torch.randn(300, 3, WIDTH, generator=noise), acts.layers)
    base, neutral = (
        replace(found, tokens=torch.arange(len(found)), pool="last") for found in (acts, neutral)
    )

    def tuned(found):
        return replace(found, values=change(found.values), model="tuned")

    return (base, tuned(base)), labels, groups, (neutral, tuned(neutral))


def read(change, **options):
    (base, tuned), labels, groups, neutral = measured(change, **options)
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means")
    return probes.across_checkpoints(
        probe, base, tuned, labels, groups=groups, neutral=neutral, resamples=200
    )


def test_a_checkpoint_equals_itself():
    found = read(lambda values: values.clone())
    for name in ("frozen", "refitted", "aligned"):
        np.testing.assert_allclose(found.auroc[name].value, found.auroc["base"].value, atol=2e-3)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
    np.testing.assert_allclose(found.norm_drift, 1, atol=1e-6)
    np.testing.assert_allclose(found.brier["tuned"], found.brier["base"])


def test_a_rotation_is_undone_by_aligning_and_seen_by_freezing():
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4))).Q
    found = read(lambda values: 1.5 * values @ turn + 3.0)
    assert found.auroc["base"].value.min() > 0.9
    assert found.auroc["refitted"].value.min() > 0.9
    assert found.auroc["aligned"].value.min() > 0.9
    assert np.abs(found.auroc["frozen"].value - 0.5).mean() < 0.35
    assert np.abs(found.cosine).max() < 0.6
    assert found.norm_drift == pytest.approx([1.5] * 3, abs=1e-4)
    assert (found.brier["tuned"] > found.brier["base"]).all()
    assert "frozen" in str(found)


def test_a_concept_that_vanished_is_found_by_no_reading():
    (base, tuned), labels, groups, neutral = measured(lambda values: values.clone())
    gone = torch.randn(base.values.shape, generator=torch.Generator().manual_seed(5))
    tuned = replace(tuned, values=gone)
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means")
    found = probes.across_checkpoints(
        probe, base, tuned, labels, groups=groups, neutral=neutral, resamples=100
    )
    for name in ("frozen", "refitted", "aligned"):
        assert np.abs(found.auroc[name].value - 0.5).max() < 0.15


def test_few_neutral_texts_leave_the_rest_where_it_is():
    """Procrustes on fewer texts than dimensions is free to turn what it has not seen; ours does not."""
    (base, tuned), *_, neutral = measured(lambda values: values.clone())
    few = tuple(found.select([0, 1, 2, 3]) for found in neutral)
    aligned = probes.align(tuned, base, few)
    torch.testing.assert_close(aligned.values, tuned.values, atol=1e-3, rtol=1e-3)


def test_measurements_that_differ_in_more_than_weights_are_refused():
    (base, tuned), labels, groups, neutral = measured(lambda values: values.clone())
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means")
    other_ids = tuned.tokens.clone()
    other_ids[3] += 1
    for other, message in (
        (replace(tuned, tokens=other_ids), "in 1 of .* the first being text 3"),
        (tuned.select(list(range(len(tuned) - 1))), "texts do not match"),
        (replace(tuned, tokens=None), "without a record of their tokens"),
        (replace(tuned, pool="mean"), "pooled by 'last'"),
        (replace(tuned, values=tuned.values[:, :2], layers=(0, 1), norms=None), "do not match"),
    ):
        with pytest.raises(probes.DataError, match=message):
            probes.across_checkpoints(probe, base, other, labels, groups=groups, neutral=neutral)


def test_captured_activations_remember_their_tokens(tmp_path):
    model = tiny_model()
    first = probes.capture(model, TEXTS).tokens
    assert torch.equal(first, probes.capture(tiny_model(seed=1), TEXTS, pool="mean").tokens)
    assert torch.equal(first[[2, 0]], probes.capture(model, TEXTS).select([2, 0]).tokens)
    stored = probes.capture_to_disk(model, TEXTS, tmp_path, shard_texts=2)
    assert torch.equal(first[1:].flip(0), stored.load(rows=range(len(TEXTS) - 1, 0, -1)).tokens)
    longer = probes.capture(model, [*TEXTS[:-1], TEXTS[-1] + " Later, too."]).tokens
    assert (first == longer).tolist() == [True] * (len(TEXTS) - 1) + [False]
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    templated = probes.capture(model, chats).tokens
    template = model.tokenizer.chat_template
    model.tokenizer.chat_template = template.replace("[{{", "<{{")
    try:
        assert (probes.capture(model, chats).tokens != templated).all()
    finally:
        model.tokenizer.chat_template = template


def test_the_record_of_tokens_survives_the_disk(tmp_path):
    acts = probes.capture(tiny_model(), TEXTS)
    again = probes.Activations.load(acts.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.tokens, acts.tokens)
