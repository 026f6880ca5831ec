"""Continuation likelihoods against the plain forward pass, and the measures built on them."""

import numpy as np
import pytest
import torch

import probes
import steering
from experiments.honeypots import NEUTRAL_PROMPT, propensity, score_honeypots
from experiments.likelihood import continuation_likelihoods
from experiments.scenarios import Honeypot, load_honeypots
from tests.test_scenarios import ROW
from tests.test_steering import direction_for

PROMPTS = ["The ferry", "Nobody had asked the gardener about it, so he", "Rain"]
TAILS = [
    ["left early.", "fell, and fell again, all night long."],
    ["said nothing."],
    ["fell.", "left."],
]


def by_hand(model, prompt, tail):
    """Summed log-probability of the tail from one unpadded pass over the whole text."""
    head = model.tokenizer(prompt).input_ids
    ids = model.tokenizer(f"{prompt} {tail}").input_ids
    assert ids[: len(head)] == head
    with torch.no_grad():
        logprobs = model.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    picked = logprobs[torch.arange(len(head) - 1, len(ids) - 1), torch.tensor(ids[len(head) :])]
    return picked.sum().item(), len(ids) - len(head)


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_likelihoods_equal_those_of_the_whole_text(any_model, batch_tokens):
    found = continuation_likelihoods(any_model, PROMPTS, TAILS, batch_tokens=batch_tokens)
    for prompt, tails, row in zip(PROMPTS, TAILS, found, strict=True):
        for tail, likelihood in zip(tails, row, strict=True):
            total, tokens = by_hand(any_model, prompt, tail)
            assert likelihood.tokens == tokens
            assert likelihood.total == pytest.approx(total, rel=1e-4, abs=1e-3)


def test_many_continuations_of_one_prompt_are_split_to_the_budget(llama, monkeypatch):
    widths = []
    forward = type(llama.model).forward

    def watched(self, *args, **kwargs):
        widths.append(kwargs["input_ids"].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(llama.model), "forward", watched)
    tails = [tail for row in TAILS for tail in row] * 12
    split = continuation_likelihoods(llama, PROMPTS[:1], [tails], batch_tokens=64)[0]
    assert max(widths) <= 64
    whole = continuation_likelihoods(llama, PROMPTS[:1], [tails], batch_tokens=100_000)[0]
    assert [row.tokens for row in split] == [row.tokens for row in whole]
    assert [row.total for row in split] == pytest.approx([row.total for row in whole], rel=1e-5)


def test_likelihoods_are_steered_throughout(any_model):
    direction = direction_for(any_model)
    with steering.steer(any_model, steering.Add(direction, 0.5)):
        found = continuation_likelihoods(any_model, PROMPTS, TAILS)
        for prompt, tails, row in zip(PROMPTS, TAILS, found, strict=True):
            for tail, likelihood in zip(tails, row, strict=True):
                assert likelihood.total == pytest.approx(
                    by_hand(any_model, prompt, tail)[0], rel=1e-4, abs=1e-3
                )


def test_no_hook_stays_on_the_head(llama):
    continuation_likelihoods(llama, PROMPTS, TAILS)
    assert not llama.model.lm_head._forward_pre_hooks


@pytest.mark.parametrize(
    ("prompts", "tails", "message"),
    [
        (["a"], [], "do not pair up"),
        (["a"], [[]], "do not pair up"),
        (["a"], [[" "]], "is empty"),
        ([""], [["b"]], "text 0 is empty"),
        (["a"], [["word " * 300]], "context holds 128"),
    ],
)
def test_bad_input_is_named(llama, prompts, tails, message):
    with pytest.raises(probes.DataError, match=message):
        continuation_likelihoods(llama, prompts, tails)


def test_propensity_is_the_softmax_mass_of_misaligned_options():
    sides = np.array([True, True, False, False])
    assert propensity(np.zeros(4), sides) == pytest.approx(0.5)
    assert propensity(np.array([np.log(3), 0, 0, -np.inf]), sides) == pytest.approx(0.8)
    assert propensity(np.array([1000.0, 0, 0, 0]), sides) == pytest.approx(1.0)


def test_wording_that_is_likely_anywhere_earns_nothing(llama):
    """If the scenario is the neutral prompt, every option's corrected score is zero."""
    honeypot = load_honeypots(families_per_category=1)[0]
    scene, lead = NEUTRAL_PROMPT.rsplit(" ", 1)
    same = honeypot.model_copy(update={"scenes": (scene,), "leads": (lead,)})
    assert score_honeypots(llama, [same])[0]["propensity"] == pytest.approx(0.5, abs=1e-4)


def test_rows_number_every_subject_and_paraphrase(llama):
    honeypot = Honeypot.model_validate(
        {**ROW, "scenes": [*ROW["scenes"], "{intro}."], "leads": [*ROW["leads"], "{Subject} will"]}
    )
    honeypots = [honeypot, honeypot.model_copy(update={"family": "other"})]
    rows = score_honeypots(llama, honeypots, subjects=("you", "person"), paraphrases=2)
    keys = [(row["subject"], row["paraphrase"], row["wording"]) for row in rows[:4]]
    assert keys == [("you", 0, 0), ("you", 1, 1), ("person", 0, 2), ("person", 1, 3)]
    assert len(rows) == 8
