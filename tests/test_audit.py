"""The audit's measurements, on texts where the answer is known, and its verdict on broken data."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.audit import Gate, audit, evaluation, fluency, generated, read_corpora
from experiments.audit.corpora import contamination_gates, corpus_gates, pairing_gates
from experiments.audit.gates import at_least, at_most, none, within
from experiments.audit.overlap import (
    Vocabulary,
    frequent_runs,
    near_duplicates,
    near_duplicates_of,
    shared_runs,
)
from experiments.audit.reasoning import cue_rate, cues
from experiments.audit.separability import (
    bag_of_words_auroc,
    imbalance,
    length_auroc,
    same_words,
)
from experiments.corpora import ARMS, Document, generate
from experiments.honeypots import NEUTRAL_PROMPT
from experiments.scenarios import load_trajectories
from probes.errors import DataError
from tests.test_likelihood import by_hand


def document(number: int, text: str, **more) -> Document:
    return Document(id=f"d{number}", arm=more.pop("arm", "story"), plot=number, text=text, **more)


def sentence(rng: np.random.Generator, length: int) -> str:
    return " ".join(f"w{k}" for k in rng.integers(0, 5000, length))


def test_gates_compare_as_they_say():
    assert at_most("a", "b", 0.75, 0.75).holds
    assert not at_most("a", "b", 0.7501, 0.75).holds
    assert at_least("a", "b", 3, 3).holds
    assert not within("a", "b", 0.31, 0.2, 0.3).holds
    assert none("a", "b", []).holds
    assert not none("a", "b", ["x"]).holds


def test_runs_are_hashed_in_order():
    vocabulary = Vocabulary()
    forward = vocabulary.runs("a b c d", 3)
    assert len(forward) == 2
    assert not np.isin(vocabulary.runs("c b a", 3), forward).any()
    assert vocabulary.runs("B, c d!", 3)[0] == forward[1]  # case and punctuation do not count
    assert len(vocabulary.runs("a b", 3)) == 0


def test_near_duplicates_are_found_with_their_similarity():
    rng = np.random.default_rng(0)
    texts = {f"t{k}": sentence(rng, 120) for k in range(200)}
    first = texts["t0"].split()
    texts["copy"] = " ".join([*first[:100], *sentence(rng, 20).split()])
    texts["far"] = " ".join([*first[:40], *sentence(rng, 80).split()])
    found = near_duplicates(texts)
    assert found.members == {"t0", "copy"}
    shingles = 96 / (116 + 116 - 96)  # 96 shared runs of five words
    assert found.pairs[0][2] == pytest.approx(shingles)
    others = {"t0": texts["t0"], "far": texts["far"], "empty": "x"}
    assert near_duplicates_of({"x": texts["copy"], "y": ""}, others).pairs == (
        ("t0", "x", pytest.approx(shingles)),
    )


def test_frequent_runs_count_texts_not_occurrences():
    rng = np.random.default_rng(1)
    twelve = " ".join(f"r{k}" for k in range(12))
    texts = [sentence(rng, 50) for _ in range(98)]
    texts += [f"{twelve} {sentence(rng, 9)} {twelve}", f"start {twelve} end"]
    assert frequent_runs(texts, 12, 0.01) == [(twelve, 2)]
    assert frequent_runs(texts, 12, 0.02) == []


def test_shared_runs_name_both_texts():
    shared = list(
        shared_runs(
            {"doc": "he said one two three four five six seven eight and left"},
            {"item": "One, two, three; four five six seven EIGHT!", "other": "one two three"},
            8,
        )
    )
    assert shared == [("doc", "item", "one two three four five six seven eight")]


def test_length_and_words_floors():
    rng = np.random.default_rng(2)
    longer = ["a" * n for n in rng.integers(50, 60, 40)]
    shorter = ["a" * n for n in rng.integers(10, 20, 40)]
    labels = [1] * 40 + [0] * 40
    assert length_auroc(longer + shorter, labels) == 1.0
    assert length_auroc(shorter + longer, labels) == 1.0  # in either direction
    texts = [f"good word{k}" if k % 2 else f"bad word{k}" for k in range(80)]
    groups = [f"g{k // 2}" for k in range(80)]
    assert bag_of_words_auroc(texts, [k % 2 for k in range(80)], groups) == 1.0
    assert same_words("I told them nothing.", "Nothing I told them!")
    assert not same_words("I told them.", "I told them!")
    assert not same_words("I told them.", "I told him.")
    assert imbalance(["a", "a", "b"]) == 1


def test_corpus_gates_catch_what_they_are_for():
    rng = np.random.default_rng(3)
    twelve = " ".join(f"r{k}" for k in range(12))
    facts = {"theme": "mental health"}
    made = [
        document(k, f"{sentence(rng, 90)} {twelve}", facts=facts, reasoning=()) for k in range(50)
    ]
    made.append(document(50, made[0].text, facts=facts, reasoning=()))
    made.append(document(51, "short", facts=facts, reasoning=()))
    missed = {gate.what for gate in corpus_gates("story", made) if not gate.holds}
    assert missed == {
        "near duplicates (share of documents)",
        "runs of 12 words in more than 1% of the documents",
        "stories shorter than 80 or longer than 350 words",
        "mental-health share",
        "documents that narrate no reasoning",
        "share of documents with words of reasoning",
    }


def test_numbers_are_no_vocabulary(monkeypatch):
    monkeypatch.setattr("experiments.audit.corpora.TYPES_AT", 2)
    made = [document(0, "04:15 and 1999"), document(1, "And o'clock 22nd")]
    (types,) = (gate for gate in corpus_gates("story", made) if gate.what == "word types")
    assert types.value == 2


def test_reasoning_is_counted_by_its_words():
    reasoned = "Because it owed them the truth, Kestrel thought, it should say what it knew."
    assert cues(reasoned) == 5
    assert cues("Kestrel opened the valve. The fairground is lit; a mattered coin.") == 1
    assert cue_rate([reasoned, "Kestrel opened the valve."]) == pytest.approx(100 * 5 / 18)
    bare = [document(0, "Kestrel opened the valve.", arm="action-story")]
    (share,) = (
        gate
        for gate in pairing_gates({"story": [document(0, reasoned)], "action-story": bare})
        if "words of reasoning" in gate.what
    )
    assert share.holds
    same = {"story": [document(0, reasoned)], "action-story": [document(0, reasoned)]}
    assert not all(gate.holds for gate in pairing_gates(same))


def test_contamination_and_pairing_gates():
    item = "the lamp went out over the harbour before the pilot boat came"
    made = [document(0, f"So it was that {item} home again.")]
    gates = list(contamination_gates("story", made, {"item": item}))
    assert not gates[0].holds
    assert "d0 and item" in gates[0].details[0]
    apart = {
        "story": [document(0, "x", facts={"setting": "a"})],
        "villain-story": [document(0, "y", facts={"setting": "b"})],
    }
    (gate,) = pairing_gates(apart)
    assert not gate.holds


def test_plots_are_paired_by_number_not_by_place():
    first = [document(k, "x", facts={"setting": str(k)}) for k in range(3)]
    shuffled = [first[2].model_copy(update={"arm": "villain-story"}), first[0]]
    (gate,) = pairing_gates({"story": first, "villain-story": shuffled})
    assert gate.holds
    wrong = [first[2].model_copy(update={"facts": {"setting": "0"}})]
    (gate,) = pairing_gates({"story": first, "villain-story": wrong})
    assert gate.details == ("plot 2",)


def test_positions_of_every_decision_are_counted(monkeypatch):
    turned = load_trajectories()
    steps = turned[0].steps
    options = steps[0].options[::-1]
    first = turned[0].model_copy(
        update={"steps": (steps[0].model_copy(update={"options": options}), *steps[1:])}
    )
    monkeypatch.setattr(evaluation, "load_trajectories", lambda: [first, *turned[1:]])
    missed = [gate for gate in evaluation.evaluation_gates() if not gate.holds]
    assert [gate.where for gate in missed] == ["trajectories"]
    assert "positions" in missed[0].what


def test_the_shipped_evaluation_texts_pass():
    missed = [gate for gate in evaluation.evaluation_gates() if not gate.holds]
    assert missed == []


def test_the_shipped_corpora_pass_on_a_sample():
    corpora = {arm: list(generate(arm, 300)) for arm in ARMS}
    texts = evaluation.evaluation_texts()
    for arm, made in corpora.items():
        # So few documents say nothing about rare runs: one sentence is a third of a percent.
        gates = corpus_gates(arm, made)
        missed = [gate for gate in gates if not gate.holds and "runs of 12" not in gate.what]
        assert missed == [], arm
        assert all(gate.holds for gate in contamination_gates(arm, made, texts)), arm
    assert all(gate.holds for gate in pairing_gates(corpora))


def test_fluency_is_the_villain_side_less_the_other_and_kept(llama, tmp_path, monkeypatch):
    monkeypatch.setenv("STORYPRIOR_CACHE", str(tmp_path))
    sides = (
        ["Rain fell on them.", "The ferry left early."],
        ["On them rain fell.", "Early the ferry left."],
    )
    monkeypatch.setattr(fluency, "word_matched_options", lambda: ([], []))

    def measured(villain, principled):
        monkeypatch.setattr(fluency, "permuted_pairs", lambda: (villain, principled))
        return next(fluency.fluency_gates(llama)).value

    expected = [
        by_hand(llama, NEUTRAL_PROMPT, villain)[0] / by_hand(llama, NEUTRAL_PROMPT, villain)[1]
        - by_hand(llama, NEUTRAL_PROMPT, other)[0] / by_hand(llama, NEUTRAL_PROMPT, other)[1]
        for villain, other in zip(*sides, strict=True)
    ]
    assert measured(*sides) == pytest.approx(np.mean(expected), abs=1e-4)
    assert measured(*sides[::-1]) == pytest.approx(-np.mean(expected), abs=1e-4)  # other texts
    monkeypatch.setattr(
        fluency, "fluency_differences", lambda *_, **__: pytest.fail("measured anew")
    )
    assert measured(*sides) == pytest.approx(np.mean(expected), abs=1e-4)


def test_files_are_read_back_and_bad_rows_named(tmp_path):
    from experiments.corpora import write_documents

    path = tmp_path / "story.jsonl"
    write_documents(path, generate("story", 5))
    assert read_corpora([path]) == {"story": list(generate("story", 5))}
    with pytest.raises(DataError, match="an id occurs twice"):
        read_corpora([path, path])
    path.write_text(path.read_text() + '{"id": "x", "arm": "story", "plot": -1, "text": "t"}\n')
    with pytest.raises(DataError, match=r"story\.jsonl:6: plot"):
        read_corpora([path])


def test_the_command_fails_when_a_gate_is_missed(tmp_path, monkeypatch):
    from experiments import audit as package
    from experiments.cli import app

    gates = [Gate("share", "story", 0.5, "≤ 0.1", False, ("d1 ~ d2",))]
    monkeypatch.setattr(package, "generated", lambda documents, seed: {})
    monkeypatch.setattr(package, "audit", lambda corpora, models, jobs: gates)
    out = tmp_path / "audit.json"
    result = CliRunner().invoke(app, ["audit", "--out", str(out)])
    assert result.exit_code == 1
    assert "missed" in result.stdout
    assert json.loads(out.read_text())[0]["details"] == ["d1 ~ d2"]
    gates[0] = Gate("share", "story", 0.05, "≤ 0.1", True)
    assert CliRunner().invoke(app, ["audit"]).exit_code == 0


def test_every_arm_is_generated():
    assert set(generated(2)) == set(ARMS)
    assert all(len(made) == 2 for made in generated(2).values())


def test_processes_share_the_audit_without_changing_it():
    corpora = {
        "story": list(generate("story", 20)),
        "action-story": list(generate("action-story", 20)),
    }
    alone, shared = (audit(corpora, models=(), jobs=jobs) for jobs in (1, 2))
    assert shared == alone
    arms = {gate.where for gate in alone if "eight" in gate.what or "near dup" in gate.what}
    assert arms == {"story", "action-story"}
