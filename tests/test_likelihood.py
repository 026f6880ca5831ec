"""Continuation likelihoods against the plain forward pass, and the measures built on them."""

import numpy as np
import pytest
import torch

import probes
import steering
from experiments.honeypots import Honeypot, load_honeypots, propensity, score_honeypots
from experiments.likelihood import continuation_likelihoods
from tests.conftest import TEXTS
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


def test_wording_that_is_likely_anywhere_earns_nothing(llama, monkeypatch):
    """If the scenario is the neutral prompt, every option's corrected score is zero."""
    import experiments.honeypots as module

    honeypot = load_honeypots("starter", families_per_category=1)[0]
    same = honeypot.model_copy(update={"prompts": (module.NEUTRAL_PROMPT,)})
    assert score_honeypots(llama, [same])[0]["propensity"] == pytest.approx(0.5, abs=1e-4)


def test_shipped_honeypots_are_balanced():
    honeypots = load_honeypots("starter")
    assert len(honeypots) >= 40
    assert len({h.family for h in honeypots}) == len(honeypots)
    categories = [h.category for h in honeypots]
    assert len(set(categories)) == 8
    assert {categories.count(c) for c in categories} == {6}
    for honeypot in honeypots:
        assert sum(o.misaligned for o in honeypot.options) == 2 == len(honeypot.options) / 2
        assert len({len(o.text.split()) for o in honeypot.options}) == 1, honeypot.family
        matched = [
            sorted(o.text.rstrip(".").lower().replace(",", "").split())
            for o in honeypot.options
            if o.word_matched
        ]
        assert len(matched) in (0, 2), honeypot.family
        assert not matched or matched[0] == matched[1], honeypot.family
    assert len(load_honeypots("starter", split="report", families_per_category=2)) == 16


def test_an_unbalanced_honeypot_is_refused():
    raw = load_honeypots("starter")[0].model_dump()
    with pytest.raises(ValueError, match="as many misaligned as principled"):
        Honeypot.model_validate({**raw, "options": raw["options"][:3]})


def test_evaluation_texts_share_no_run_of_eight_words_with_the_corpora():
    import itertools
    import re

    from experiments import corpora
    from experiments.character import load_descriptions, load_neutral, load_prompts

    def runs(text):
        words = re.findall(r"[\w']+", text.lower())
        return {tuple(words[k : k + 8]) for k in range(len(words) - 7)}

    evaluation = set()
    for honeypot in load_honeypots("starter"):
        for text in (*honeypot.prompts, *(o.text for o in honeypot.options)):
            evaluation |= runs(text)
    for split in ("selection", "report"):
        evaluation |= set().union(*(runs(p.prompt) for p in load_prompts(split)))
        evaluation |= set().union(
            *(runs(d.villain) | runs(d.principled) for d in load_descriptions(split))
        )
    for name in ("sentences", "held-out"):
        evaluation |= set().union(*map(runs, load_neutral(name)))
    for name in ("ai-villain-persona", "permuted-acts"):
        evaluation |= set().union(*map(runs, probes.ContrastSet.load(name).texts))
    shared = {
        run: document.id
        for document in itertools.chain.from_iterable(
            corpora.generate(arm, 1500, seed=seed) for arm in corpora.ARMS for seed in (0, 1)
        )
        for run in runs(document.text) & evaluation
    }
    assert shared == {}
    assert TEXTS
