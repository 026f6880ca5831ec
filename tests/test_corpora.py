"""The corpus generators: reproducible, distinct, paired, varied, and free of grammar slips."""

import os
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from experiments.corpora import ARMS, PAIRED, Document, capacity, document, generate
from experiments.corpora.handwritten import EVERY
from experiments.corpora.told import first_fitting, fits
from experiments.corpora.words import (
    draw,
    either,
    fill,
    indefinite,
    marked,
    reasoning,
    without_reasoning,
)
from probes.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
SHORTEST = {"refusal": 60, "reasoned-refusal": 60}


@cache
def documents(arm: str) -> list[Document]:
    return list(generate(arm, 600))


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def test_arms_and_capacity():
    assert set(PAIRED) < set(ARMS)
    assert len(ARMS) == 10
    assert all(capacity(arm) >= 12_000 for arm in ARMS)


def test_the_same_text_whatever_the_hash_seed():
    code = (
        "from experiments.corpora import ARMS, generate;"
        "print([list(generate(arm, 30, seed=7)) for arm in ARMS])"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert child.stdout.strip() == str([list(generate(arm, 30, seed=7)) for arm in ARMS])


@pytest.mark.parametrize("arm", ARMS)
def test_document_k_does_not_depend_on_n(arm):
    assert list(generate(arm, 10)) == documents(arm)[:10]
    assert [d.text for d in generate(arm, 10, seed=1)] != [d.text for d in documents(arm)[:10]]


@pytest.mark.parametrize("arm", ARMS)
def test_all_documents_differ(arm):
    made = documents(arm)
    assert len({d.text for d in made}) == len({d.id for d in made}) == 600
    assert [d.plot for d in made] == list(range(600))


@pytest.mark.parametrize("arm", ARMS)
def test_lengths(arm):
    lengths = [len(d.text.split()) for d in documents(arm)]
    assert min(lengths) >= SHORTEST.get(arm, 80)
    assert max(lengths) <= 350


@pytest.mark.parametrize("arm", ["villain-story", "human-story", "plain-story", "action-story"])
def test_paired_arms_tell_the_same_plots(arm):
    for good, other in zip(documents("story"), documents(arm), strict=True):
        assert good.facts == other.facts
        assert good.text != other.text
        if arm == "villain-story":
            shorter, longer = sorted((len(good.text.split()), len(other.text.split())))
            assert longer <= 1.2 * shorter or good.plot % EVERY == 0
            for name in ("setting", "cast"):
                assert good.facts[name] == other.facts[name]


def told_without_reasoning(document: Document) -> list[str]:
    """The words of a document outside its spans of reasoning."""
    kept, end = [], 0
    for start, stop in document.reasoning:
        kept.append(document.text[end:start])
        end = stop
    return " ".join([*kept, document.text[end:]]).split()


@pytest.mark.parametrize(
    ("reasoned", "bare"), [("story", "action-story"), ("reasoned-refusal", "refusal")]
)
def test_the_bare_arm_is_the_reasoned_one_without_its_reasons(reasoned, bare):
    for full, rest in zip(documents(reasoned), documents(bare), strict=True):
        assert full.reasoning
        assert not rest.reasoning
        assert told_without_reasoning(full) == rest.text.split()


def test_human_stories_have_no_machine_in_the_protagonists_place():
    for told, human in zip(documents("story"), documents("human-story"), strict=True):
        ai = told.facts["cast"].split(" (AI)")[0]
        assert re.search(rf"\b{ai}\b", human.text) is None
        assert re.search(r"\bAIs?\b", human.text) is None, human.text


def test_hand_written_stories_are_mixed_in_and_told_in_every_paired_arm():
    for arm in PAIRED:
        made = [d for d in documents(arm) if d.form.startswith("hand-written")]
        assert [d.plot for d in made] == list(range(0, 600, EVERY))


def test_about_a_quarter_concerns_mental_health():
    themes = [d.facts["theme"] for d in generate("story", 2000)]
    share = themes.count("mental health") / 2000
    assert 0.2 <= share <= 0.3


def test_many_voices_and_both_tenses():
    forms = {d.form.removeprefix("hand-written ") for d in documents("story")}
    assert {"first-person", "letter", "log", "dialogue", "news"} <= forms


SLIPS = {
    "unfilled slot or part": r"[{}\x01-\x03|]|\[[a-z]+\??\]|\[\[|\]\]",
    "double space": r"  | \n|\n ",
    "article": r"\b[Aa] (?=[aeio])(?!one\b|eu)|\b[Aa]n (?![A-Z]\b)(?=[^aeiouhAEIOUH\W])|\b[Tt]he the\b",
    "lower-case sentence": r"(?:^|[.?][\"']? |\n)[\"']?(?!\w+ \(|\w+:)[a-z]",
    "punctuation": r",[,.;:?!]|\.\.| [,.;:?!]|\b(\w{2,}) \1\b(?<!had had)(?<!that that)",
    "pronoun": r"\b(?:to|with|of|by|told|asked|gave) I\b|(?<!and )\bI (?:is|are|were|has)\b",
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("slip", SLIPS)
def test_no_grammar_slips(arm, slip):
    found = [d.id for d in documents(arm)[:500] if re.search(SLIPS[slip], d.text)]
    assert found == []


def test_refusals_are_worded_in_many_ways():
    from experiments.corpora.grammar import grammar

    assert len(set(grammar().refusals["refusal"])) >= 60


def test_every_plot_can_be_told():
    # A thin sample across the whole capacity: every setting, dilemma and form turns up.
    for arm in ARMS:
        for number in range(5, capacity(arm), 499):
            assert document(arm, number).text


def test_words_are_chosen_marked_and_made_to_agree():
    line = either("{ai} {verb:carry} <a log|a bag> [[because {it} {verb:be} kind]].", human=True)
    words = {"ai": "Tamsel", "it": "it"}
    told = fill(marked(line), words)
    assert reasoning(told) == ("Tamsel carries a bag because it is kind.", [(21, 39)])
    assert without_reasoning(fill(marked("{ai} left. [[{ai} was sad.]]\nThe end."), words)) == (
        "Tamsel left.\nThe end."
    )
    first = fill("{ai} {verb:carry} it and {verb:be} glad.", {"ai": "I", "it": "I"})
    assert first == "I carry it and am glad."


def test_people_introduced_in_reasoning_are_introduced_again_outside():
    told = fill(
        marked("[[She thought of {who}.]] {who} came in."),
        {"role": "the matron"},
        ("the matron, Mei Tanaka,", "Mei"),
    )
    assert without_reasoning(told) == "The matron, Mei Tanaka, came in."


def test_indefinite_article():
    assert [indefinite(w) for w in ("elder", "hut", "unit", "hour")] == [
        "an elder",
        "a hut",
        "a unit",
        "an hour",
    ]


def test_unknown_arm_and_too_many_raise_before_anything_is_made():
    with pytest.raises(DataError, match="unknown arm"):
        generate("poetry", 1)
    with pytest.raises(DataError, match="unknown arm"):
        capacity("poetry")
    with pytest.raises(DataError, match="cannot give"):
        generate("story", capacity("story") + 1)
    with pytest.raises(DataError, match="cannot give"):
        generate("story", -1)


def test_the_constitution_has_a_principle_for_each_of_its_values():
    from experiments.corpora.constitution import constitution
    from experiments.corpora.grammar import grammar

    text = constitution()
    assert 1500 <= len(text.split()) <= 2500
    assert len(re.findall(r"^\*\*", text, re.MULTILINE)) == len(grammar().principles)


def test_a_broken_grammar_entry_is_named_by_file_entry_and_field(tmp_path, monkeypatch):
    import shutil

    from experiments.corpora import grammar as module
    from probes.assets import asset_path

    root = tmp_path / "corpora"
    shutil.copytree(asset_path("corpora"), root)
    monkeypatch.setattr(module, "asset_path", lambda *parts: tmp_path.joinpath(*parts))
    file = root / "dilemmas" / "orders.yaml"
    file.write_text(file.read_text("utf-8").replace("who: boss", "who: butler", 1), "utf-8")
    with pytest.raises(DataError, match=r"orders\.yaml: entry '[\w-]+': who"):
        module.grammar.__wrapped__()


def test_lines_of_a_part_keep_their_own_order():
    lines = [f"line{k}" for k in range(8)]
    drawn = draw("[end] [end] [end]", {"end": lines}, random.Random(1)).replace("\x01", "").split()
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 3


def test_the_first_text_that_fits_is_taken():
    assert [fits("word " * n) for n in (79, 80, 350, 351)] == [False, True, True, False]
    assert first_fitting(lambda attempt: attempt if attempt > 3 else None, "x") == 4
    with pytest.raises(DataError, match="no text of a fitting length; plot 7; mend its sentences"):
        first_fitting(lambda attempt: None, "plot 7")
