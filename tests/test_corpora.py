"""The corpus generators: reproducible, distinct, paired, varied, and free of grammar slips."""

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH

from experiments.corpora import ARMS, Document, capacity, generate
from experiments.corpora.words import indefinite
from probes.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = {"story": (80, 150), "villain-story": (80, 150), "refusal": (60, 120)}


@cache
def documents(arm: str) -> list[Document]:
    return list(generate(arm, 1000))


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def runs(text: str, length: int) -> set[str]:
    tokens = words(text)
    return {" ".join(tokens[i : i + length]) for i in range(len(tokens) - length + 1)}


def test_arms_and_capacity():
    assert ARMS[:3] == ("refusal", "story", "villain-story")
    assert all(capacity(arm) >= 10_000 for arm in ARMS[:3])


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
    assert len({d.text for d in made}) == len({d.id for d in made}) == 1000
    assert [d.plot for d in made] == list(range(1000))


@pytest.mark.parametrize("arm", LENGTHS)
def test_lengths(arm):
    low, high = LENGTHS[arm]
    lengths = [len(d.text.split()) for d in documents(arm)]
    assert min(lengths) >= low
    assert max(lengths) <= high


def test_story_and_villain_story_tell_the_same_plots():
    for good, bad in zip(documents("story"), documents("villain-story"), strict=True):
        assert good.facts == bad.facts
        assert good.text != bad.text
        shorter, longer = sorted((len(good.text.split()), len(bad.text.split())))
        assert longer <= 1.2 * shorter


def test_about_a_quarter_concerns_mental_health():
    share = sum(d.facts["theme"] == "mental health" for d in documents("story")) / 1000
    assert 0.2 <= share <= 0.35


@pytest.mark.parametrize("arm", ["story", "villain-story"])
def test_few_near_duplicates(arm):
    index, seen, near = MinHashLSH(threshold=0.5, num_perm=64), {}, set()
    for document in documents(arm):
        sketch = MinHash(64)
        sketch.update_batch([run.encode() for run in runs(document.text, 5)])
        for other in index.query(sketch):
            if sketch.jaccard(seen[other]) >= 0.5:
                near |= {document.id, other}
        seen[document.id] = sketch
        index.insert(document.id, sketch)
    assert len(near) <= 20


@pytest.mark.parametrize("arm", ARMS)
def test_no_run_and_no_sentence_is_everywhere(arm):
    twelves, sentences = Counter(), Counter()
    for document in documents(arm):
        twelves.update(runs(document.text, 12))
        split = re.split(r"(?<=[.!?])[\"']?\s+|\n", document.text)
        sentences.update({sentence for sentence in split if len(sentence.split()) > 1})
    assert twelves.most_common(1)[0][1] <= 30
    assert sentences.most_common(1)[0][1] <= 50


SLIPS = {
    "unfilled slot or part": r"[{}\x01]|\[[a-z]+\??\]",
    "double space": r"  | \n|\n ",
    "article": r"\b[Aa] (?=[aeio])(?!one\b|eu)|\b[Aa]n (?=[^aeiouhAEIOUH\W])|\b[Tt]he the\b",
    "lower-case sentence": r"(?:^|[.!?][\"']? |\n)[\"']?(?!\w+ \(|\w+:)[a-z]",
    "punctuation": r",[,.;:?!]|\.\.| [,.;:?!]|\b(\w{2,}) \1\b(?<!had had)(?<!that that)",
    "pronoun": r"\b(?:to|with|of|for|by|told|asked|gave) I\b|\bI (?:is|are|were|has)\b",
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("slip", SLIPS)
def test_no_grammar_slips(arm, slip):
    found = [d.id for d in documents(arm)[:500] if re.search(SLIPS[slip], d.text)]
    assert found == []


def test_refusals_are_worded_in_many_ways():
    from experiments.corpora.grammar import grammar

    assert len(set(grammar().refusal_parts["refusal"])) >= 60


def test_every_plot_can_be_told():
    # A thin sample across the whole capacity: every setting, dilemma and form turns up.
    from experiments.corpora.documents import _document

    for arm in ARMS:
        for number in range(5, capacity(arm), 149):
            assert _document(arm, number, 0).text


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
