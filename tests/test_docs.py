"""The how-to runs as written, and the reference leaves no public name without words."""

import inspect
import re
from pathlib import Path

import pytest

import probes
import steering

HOW_TO = (Path(__file__).resolve().parents[1] / "docs" / "how-to.md").read_text()


@pytest.mark.real
def test_the_how_to_runs_as_written(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"how-to block {number}", "exec"), names)
    printed = capsys.readouterr().out
    for expected in ("<- selected", "trained on the row", "null 95 %", "frozen"):
        assert expected in printed
    for name in ("trace.html", "trace.png", "writers.png", "logit-lens.png", "villain.gguf"):
        assert (tmp_path / name).stat().st_size > 0
    for other in ("lens", "sight"):
        difference = names[other].values - names["here"].values
        assert difference.norm() < 5e-4 * names["here"].values.norm()
    again, kept = names["again"].vectors[0], names["probe"].direction.at(14)
    assert (again - kept).abs().max() < 1e-5


@pytest.mark.parametrize("package", [probes, steering])
def test_every_public_name_says_what_it_is(package):
    for name in package.__all__:
        words = inspect.getdoc(getattr(package, name)) or ""
        assert len(words) > 20, name
        assert not words.startswith(f"{name}("), f"{name} has no docstring of its own"
