"""The README's quick start runs as written, on the packaged model."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


@pytest.mark.real
def test_the_quick_start_runs_as_written(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks[0], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "<- selected" in printed
    assert "bag of words" in printed
    assert (tmp_path / "villain.safetensors").is_file()
    assert printed.strip().splitlines()[-1].strip(" []'")


def test_files_that_the_readme_names_are_there():
    root = Path(__file__).resolve().parents[1]
    for name in re.findall(r"\]\((docs/[^)]+)\)|`(assets/[\w/]+/|experiments/[\w.]+)`", README):
        assert (root / (name[0] or name[1])).exists(), name
