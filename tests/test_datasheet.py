"""The datasheet says what is there: its counts are those of the files."""

import re
from pathlib import Path

import yaml

from probes.assets import asset_path
from probes.files import read_jsonl

DATASHEET = asset_path("README.md").read_text(encoding="utf-8")


def entries(name: str) -> int:
    path = asset_path(*Path(name).parts)
    if path.is_dir():
        return sum(len(yaml.safe_load(file.read_text("utf-8"))) for file in path.glob("*.yaml"))
    if path.suffix == ".jsonl":
        return len(read_jsonl(path))
    return len(yaml.safe_load(path.read_text("utf-8"))["arms"]) if path.suffix == ".yaml" else 1


def test_the_counts_are_those_of_the_files():
    said = {
        name: int(count)
        for name, count in re.findall(r"^\| `([^`]+)` \| (\d+) \|", DATASHEET, re.M)
    }
    assert said == {name: entries(name) for name in said}
    listed = {name.split("/")[0] for name in said}
    shipped = {path.name for path in asset_path("README.md").parent.iterdir()}
    assert shipped - listed == {"README.md", "presets"}


def test_word_matched_families_are_counted():
    from experiments.audit.evaluation import word_matched_options

    assert f"{len(word_matched_options()[0])} families have a word-matched pair" in DATASHEET
