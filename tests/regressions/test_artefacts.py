"""No pickle, no half-written file, and an identity that notices every change."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import probes
from probes.files import atomic_path, write_json
from tests.conftest import tiny_model

ROOT = Path(__file__).resolve().parents[2]


FORBIDDEN = re.compile(
    r"import pickle|\bpickle\.\w|joblib\.load|torch\.load\((?![^()]*weights_only=True\))|torch\.save\("
    r"|yaml\.load\((?!.*SafeLoader)|trust_remote_code=True"
)


def test_nothing_in_the_tree_unpickles():
    for package in ("probes", "steering", "experiments", "benchmarks", "docs"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name == "pt.py":  # the format of other tools, written from bare tensors
                text = text.replace("torch.save(content, buffer)", "")
                text = text.replace('"torch.save(dataclasses.asdict', "")
            assert not FORBIDDEN.search(text), path


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ('torch.load(path, map_location="cpu", weights_only=True)', False),
        ("torch.save(x, path)", True),
        ("import pickle", True),
        ("# a pickle is refused", False),
    ],
)
def test_the_search_for_pickles_finds_them(code, caught):
    assert bool(FORBIDDEN.search(code)) is caught


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = write_json(tmp_path / "kept.json", {"old": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")
    assert path.read_text().strip() == '{\n "old": 1\n}'
    assert os.listdir(tmp_path) == ["kept.json"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    with (
        pytest.raises(probes.ArtefactError, match=r"cannot write .*No space left.*free some space"),
        atomic_path(tmp_path / "x"),
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_library_that_meets_a_full_disk_is_one_clear_error(tmp_path):
    """safetensors has an exception of its own; a file-size limit makes the write fail for real."""
    code = (
        "import resource, signal, torch, probes;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "d = probes.Direction.from_vectors(torch.randn(8, 4096), tuple(range(8)));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        f"d.save({str(tmp_path / 'd.safetensors')!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("probes.errors.ArtefactError: cannot write")
    assert os.listdir(tmp_path) == []


def test_identity_changes_with_weights_dtype_configuration_and_template(tmp_path):
    folders = []
    for seed in (0, 1):
        model = tiny_model("llama", seed=seed)
        folders.append(tmp_path / str(seed))
        model.model.save_pretrained(folders[-1])
        model.tokenizer.save_pretrained(folders[-1])
    identities = {
        probes.load(folders[0]).identity,
        probes.load(folders[1]).identity,
        probes.load(folders[0], dtype="bfloat16").identity,
    }
    assert len(identities) == 3
    config = json.loads((folders[1] / "config.json").read_text())
    (folders[1] / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert probes.load(folders[1]).identity not in identities
    (folders[0] / "chat_template.jinja").write_text("{{ messages }}")
    assert probes.load(folders[0]).identity not in identities


def test_a_direction_is_not_saved_with_a_wrong_norm():
    with pytest.raises(probes.DataError, match="unit norm"):
        probes.Direction(2 * torch.eye(2), (0, 1), torch.ones(2))
    with pytest.raises(probes.DataError, match="zero or not finite"):
        probes.Direction.from_vectors(torch.zeros(1, 4), (0,))
