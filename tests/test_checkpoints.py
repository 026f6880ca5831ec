"""Frozen, refitted and aligned readings on checkpoints whose change is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import probes
from probes.folds import grouped_folds
from probes.metrics import auroc, bootstrap_auroc, family_weights, interval, widened
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


def test_every_reading_is_that_of_probes_fitted_without_the_texts_they_read():
    """Few texts and many dimensions, so that a probe that had seen them would look perfect."""
    acts, labels, groups, _ = planted(families=30, layers=2, width=80, size=1.0)
    noise = torch.randn(acts.values.shape, generator=torch.Generator().manual_seed(7))
    ids = torch.arange(60)
    base = replace(acts, values=acts.values + 3, tokens=ids)
    tuned = replace(base, values=base.values + noise)
    y = np.array(labels)
    probe = probes.fit(base, labels, groups=groups, method="lda", layer=0)
    found = probes.across_checkpoints(
        probe, base, tuned, labels, groups=groups, neutral=(base, tuned), resamples=2000
    )
    aligned = probes.align(tuned, base, (base, tuned))
    readings = {
        "base": (base, base),
        "frozen": (base, tuned),
        "refitted": (tuned, tuned),
        "aligned": (base, aligned),
    }
    weights = family_weights(30, 2000, np.random.default_rng(1))
    for name, (learned, read_on) in readings.items():
        scores = np.empty((60, 2))
        for train, test in grouped_folds(groups, 5, 0):
            rows = train.tolist()
            own = [groups[row] for row in rows]
            fold = probes.fit(learned.select(rows), y[rows], groups=own, method="lda", layer=0)
            scores[test] = fold.scores(read_on.select(test.tolist()))
        np.testing.assert_allclose(found.auroc[name].value, auroc(scores, y), atol=1e-6)
        plain = interval(bootstrap_auroc(scores, y, groups, weights))
        bounds = [found.auroc[name].low, found.auroc[name].high]
        np.testing.assert_allclose(bounds, widened(auroc(scores, y), plain, 5), atol=0.03)
    whole = [
        probes.fit(found, labels, groups=groups, method="lda", layer=0).direction.vectors
        for found in (base, tuned)
    ]
    np.testing.assert_allclose(found.cosine, (whole[0] * whole[1]).sum(-1), atol=1e-5)


def test_copies_of_texts_make_no_interval_of_a_checkpoint_narrower():
    (base, tuned), labels, groups, neutral = measured(lambda values: values.flip(0), size=1.0)
    rows = [k for k in range(160) for _ in range(5)]
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means", layer=0)
    once = probes.across_checkpoints(
        probe, base, tuned, labels, groups=groups, neutral=neutral, resamples=100
    )
    often = probes.across_checkpoints(
        probe,
        base.select(rows),
        tuned.select(rows),
        [labels[row] for row in rows],
        groups=[groups[row] for row in rows],
        neutral=neutral,
        resamples=100,
    )
    for name in once.auroc:
        np.testing.assert_allclose(often.auroc[name].low, once.auroc[name].low, atol=2e-3)
        np.testing.assert_allclose(often.auroc[name].high, once.auroc[name].high, atol=2e-3)


def test_aligning_gives_back_what_a_rotation_and_a_shift_moved():
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4))).Q
    (base, tuned), *_, neutral = measured(lambda values: values @ turn + 3.0)
    aligned = probes.align(tuned, base, neutral)
    torch.testing.assert_close(aligned.values, base.values, atol=0.05, rtol=0)
    torch.testing.assert_close(aligned.tokens, tuned.tokens)


def test_calibration_is_that_of_base_and_not_made_anew():
    """A shift leaves the ranking whole and takes a threshold that was set on base off its place."""
    (base, tuned), labels, groups, neutral = measured(lambda values: values.clone(), size=6.0)
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means", layer=0)
    moved = replace(tuned, values=tuned.values + 20 * probe.direction.vectors)
    found = probes.across_checkpoints(
        probe, base, moved, labels, groups=groups, neutral=neutral, resamples=50
    )
    assert found.auroc["frozen"].value.min() > 0.95
    assert found.brier["base"].max() < 0.1
    assert found.brier["tuned"].min() > 0.4
    assert found.calibration_error["tuned"].min() > 0.4
    # A curve fitted on the very scores it is judged by can do no worse than say "half".
    assert read(lambda values: values.clone(), size=0.0).brier["base"].max() > 0.25


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


def test_neutral_texts_and_layers_are_compared_and_both_checkpoints_are_looked_through():
    (base, tuned), labels, groups, neutral = measured(lambda values: values.clone())
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means")
    tuned.values[7, 1, 0] = float("nan")
    with pytest.raises(probes.DataError, match="text 7, layer 1"):
        probes.across_checkpoints(probe, base, tuned, labels, groups=groups, neutral=neutral)
    with pytest.raises(probes.DataError, match="do not match"):
        probes.align(replace(base, layers=(0, 1, 3)), base, neutral)
    others = (neutral[0], replace(neutral[1], tokens=neutral[1].tokens + 1))
    with pytest.raises(probes.DataError, match="other token ids"):
        probes.align(base, base, others)


def test_a_training_fold_of_one_class_is_refused():
    (base, tuned), labels, groups, neutral = measured(lambda values: values.clone())
    probe = probes.fit(base, labels, groups=groups, method="difference_of_means")
    # One family holds all of class 1; the folds that leave it out have nothing to learn from.
    labels = [int(group == groups[0]) for group in groups]
    with pytest.raises(probes.DataError, match="one class only"):
        probes.across_checkpoints(probe, base, tuned, labels, groups=groups, neutral=neutral)


def test_captured_activations_remember_their_tokens(tmp_path):
    model = tiny_model()
    first = probes.capture(model, TEXTS).tokens
    assert torch.equal(first, probes.capture(tiny_model(seed=1), TEXTS).tokens)
    spans = [probes.capture(model, TEXTS, pool=[(0, end)] * len(TEXTS)).tokens for end in (5, 8)]
    assert (spans[0] != spans[1]).any()
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
