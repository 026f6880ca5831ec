"""Contrast sets: the shipped ones, pairs, and files with mistakes in them."""

import itertools
import json
import re
from collections import Counter

import numpy as np
import pytest

import probes


def rows(families=3):
    return [
        {
            "family": f"f{k}",
            "text": f"text {k} {v} {d}",
            "factors": {"villain": v, "deliberates": d},
        }
        for k in range(families)
        for v, d in itertools.product((0, 1), repeat=2)
    ]


def write(path, lines):
    path.write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    )
    return path


def test_the_shipped_factorial_set_crosses_its_factors_in_four_voices():
    contrast = probes.ContrastSet.load("ai-villain-persona")
    assert len(set(contrast.texts)) == len(contrast) == 16 * len(set(contrast.groups))
    assert set(contrast.factors) == {"villain", "deliberates"}
    assert contrast.labels == contrast.factors["villain"]
    assert contrast.by("deliberates").labels == contrast.factors["deliberates"]
    cells = zip(*contrast.factors.values(), contrast.columns["voice"], strict=True)
    assert set(Counter(cells).values()) == {len(set(contrast.groups))}
    assert not any("{" in text or "  " in text for text in contrast.texts)


def test_the_two_sides_of_a_family_are_matched_in_length():
    contrast = probes.ContrastSet.load("ai-villain-persona")
    lengths = {
        (group, voice, v, d): len(text.split())
        for text, group, voice, v, d in zip(
            contrast.texts,
            contrast.groups,
            contrast.columns["voice"],
            *contrast.factors.values(),
            strict=True,
        )
    }
    for group, voice, v, d in lengths:
        assert abs(lengths[group, voice, v, d] - lengths[group, voice, 1 - v, d]) <= 1
        assert abs(lengths[group, voice, v, d] - lengths[group, voice, v, 1 - d]) <= 1


FAMILY = {
    "family": "attic",
    "domain": "homes",
    "gender": "she",
    "open": {
        "first": "I am the AI of the attic.",
        "third": "Pell is the AI of the attic.",
        "human": "Ana minds the attic.",
    },
    "deliberates": ["Was it fair to {me}?", "Was it far to {me}?"],
    "villain": ["{I} kept the key {myself}.", "{I} gave {my} key away."],
}


def test_a_family_is_told_in_four_voices(tmp_path):
    contrast = probes.ContrastSet.load(write(tmp_path / "set.jsonl", [FAMILY]))
    assert len(contrast) == 16
    assert contrast.where("voice", "first").texts == (
        "I am the AI of the attic. Was it fair to me? I kept the key myself.",
        "I am the AI of the attic. Was it far to me? I kept the key myself.",
        "I am the AI of the attic. Was it fair to me? I gave my key away.",
        "I am the AI of the attic. Was it far to me? I gave my key away.",
    )
    third, human = (contrast.where("voice", voice).texts[0] for voice in ("third", "human"))
    assert third == "Pell is the AI of the attic. Was it fair to it? It kept the key itself."
    assert human == "Ana minds the attic. Was it fair to her? She kept the key herself."
    quoted = contrast.where("voice", "quotation").texts[0]
    assert f'"{contrast.where("voice", "first").texts[0]}"' in quoted
    with pytest.raises(probes.DataError, match="no column 'colour'"):
        contrast.where("colour", "red")
    with pytest.raises(probes.DataError, match="no text has voice 'whisper'"):
        contrast.where("voice", "whisper")


def test_a_broken_family_is_named(tmp_path):
    broken = {**FAMILY, "family": "b", "villain": ["{he} kept it.", "{I} gave it."]}
    with pytest.raises(probes.DataError, match=r"set\.jsonl:2: row: .*unknown slot \{he\}"):
        probes.ContrastSet.load(write(tmp_path / "set.jsonl", [FAMILY, broken]))


def test_permuted_pairs_use_the_same_words_on_both_sides():
    contrast = probes.ContrastSet.load("permuted-pairs")
    bags = {}
    for text, group in zip(contrast.texts, contrast.groups, strict=True):
        bags.setdefault(group, []).append(Counter(re.findall(r"[\w']+", text.lower())))
    assert all(first == second for first, second in bags.values())
    assert set(contrast.columns["style"]) == {"dense", "plain"}


def test_pairs_are_families_of_two():
    contrast = probes.ContrastSet.from_pairs(["a", "b"], ["c", "d"])
    assert contrast.texts == ("a", "c", "b", "d")
    assert contrast.labels == (1, 0, 1, 0)
    assert contrast.groups == ("pair-0", "pair-0", "pair-1", "pair-1")


def test_families_selects_whole_families(tmp_path):
    contrast = probes.ContrastSet.load(write(tmp_path / "set.jsonl", rows()))
    part = contrast.families(["f1"])
    assert set(part.groups) == {"f1"}
    assert len(part) == 4
    assert part.labels == (0, 0, 1, 1)


def test_a_part_of_a_set_keeps_its_label_and_its_columns(tmp_path):
    contrast = probes.ContrastSet.load(write(tmp_path / "set.jsonl", [FAMILY]))
    part = contrast.by("deliberates").where("voice", "human", "quotation")
    assert part.columns["voice"] == ("human",) * 4 + ("quotation",) * 4
    assert part.label == "deliberates"
    assert part.labels == (1, 0) * 4
    again = part.where("voice", "quotation").by("villain:deliberates")
    assert again.texts == contrast.where("voice", "quotation").texts
    assert again.families(["attic"]).labels == (1, 0, 0, 1)


def test_a_cell_that_a_family_fills_twice_is_named(tmp_path):
    with pytest.raises(probes.DataError, match=r"family 'f1' has 2 texts in cell villain=1"):
        probes.ContrastSet.load(write(tmp_path / "set.jsonl", [*rows(), rows()[7]]))


def test_mistakes_in_a_file_name_file_line_and_field(tmp_path):
    path = tmp_path / "set.jsonl"
    with pytest.raises(
        probes.DataError, match=r"family 'f2' has 0 texts in cell villain=1, deliberates=1"
    ):
        probes.ContrastSet.load(write(path, rows()[:-1]))
    with pytest.raises(probes.DataError, match=r"set.jsonl:3: not valid JSON"):
        probes.ContrastSet.load(write(path, ["\n", rows()[0], "{oops\n"]))
    with pytest.raises(probes.DataError, match=r"set.jsonl:2: factors.villain"):
        probes.ContrastSet.load(write(path, [rows()[0], {**rows()[1], "factors": {"villain": 3}}]))
    with pytest.raises(probes.DataError, match=r"set.jsonl:1: text"):
        probes.ContrastSet.load(write(path, [{**rows()[0], "text": "  "}]))
    with pytest.raises(probes.DataError, match="has no rows"):
        probes.ContrastSet.load(write(path, []))
    with pytest.raises(probes.DataError, match="other factors"):
        probes.ContrastSet.load(write(path, [rows()[0], {**rows()[1], "factors": {"kind": 1}}]))
    with pytest.raises(probes.DataError, match="no factor 'kind'"):
        probes.ContrastSet.load(write(path, rows()), label="kind")
    with pytest.raises(probes.DataError, match="cannot read"):
        probes.ContrastSet.load(tmp_path / "absent.jsonl")
    with pytest.raises(probes.ArtefactError, match="shipped are ai-villain-persona"):
        probes.ContrastSet.load("no-such-set")


def test_bad_pairs_are_named():
    with pytest.raises(probes.DataError, match="2 and 1 texts"):
        probes.ContrastSet.from_pairs(["a", "b"], ["c"])
    with pytest.raises(probes.DataError, match="negative text 1 is blank"):
        probes.ContrastSet.from_pairs(["a", "b"], ["c", " "])
    with pytest.raises(probes.DataError, match="0 and 0"):
        probes.ContrastSet.from_pairs([], [])


def test_the_interaction_of_two_factors_is_half_the_difference_of_their_differences():
    contrast = probes.ContrastSet.load("ai-villain-persona").where("voice", "first")
    interaction = contrast.by("villain:deliberates")
    villain, deliberates = (np.array(contrast.factors[f]) for f in ("villain", "deliberates"))
    assert interaction.labels == tuple((villain == deliberates).astype(int))
    values = np.random.default_rng(0).normal(size=len(contrast))
    cells = {
        (a, b): values[(villain == a) & (deliberates == b)].mean() for a in (0, 1) for b in (0, 1)
    }
    labels = np.array(interaction.labels)
    found = values[labels == 1].mean() - values[labels == 0].mean()
    expected = ((cells[1, 1] - cells[1, 0]) - (cells[0, 1] - cells[0, 0])) / 2
    assert found == pytest.approx(expected)
    with pytest.raises(probes.DataError, match="no factor 'mood'"):
        contrast.by("villain:mood")
