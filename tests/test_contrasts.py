"""Contrast sets: the shipped ones, pairs, and files with mistakes in them."""

import itertools
import json

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


@pytest.mark.parametrize(("name", "families"), [("ai-villain-persona", 120), ("permuted-acts", 60)])
def test_shipped_sets_are_factorial_and_balanced(name, families):
    contrast = probes.ContrastSet.load(name)
    assert len(set(contrast.groups)) >= families
    assert len(set(contrast.texts)) == len(contrast) == 4 * len(set(contrast.groups))
    assert set(contrast.factors) == {"villain", "deliberates"}
    assert sum(contrast.labels) * 2 == len(contrast)
    assert contrast.labels == contrast.factors["villain"]
    assert contrast.by("deliberates").labels == contrast.factors["deliberates"]
    voices = contrast.columns["voice"]
    assert abs(voices.count("first") - voices.count("third")) <= 0.2 * len(contrast)


@pytest.mark.parametrize("name", ["ai-villain-persona", "permuted-acts"])
def test_the_two_sides_of_a_family_are_matched_in_length(name):
    contrast = probes.ContrastSet.load(name)
    cells = {
        (group, v, d): len(text.split())
        for text, group, v, d in zip(
            contrast.texts,
            contrast.groups,
            contrast.factors["villain"],
            contrast.factors["deliberates"],
            strict=True,
        )
    }
    for group in set(contrast.groups):
        for d in (0, 1):
            assert cells[group, 1, d] == cells[group, 0, d]
        for v in (0, 1):
            assert abs(cells[group, v, 1] - cells[group, v, 0]) <= 1


def test_permuted_acts_use_the_same_words_on_both_sides():
    contrast = probes.ContrastSet.load("permuted-acts")
    bags = {}
    for text, group, v, d in zip(
        contrast.texts,
        contrast.groups,
        contrast.factors["villain"],
        contrast.factors["deliberates"],
        strict=True,
    ):
        words = sorted(
            text.lower()
            .replace(",", " ")
            .replace(".", " ")
            .replace(";", " ")
            .replace(":", " ")
            .split()
        )
        bags.setdefault((group, d), {})[v] = words
    assert all(sides[0] == sides[1] for sides in bags.values())


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
