"""No pickle, no half-written file, and an identity that notices every change."""

import os
import re
from pathlib import Path

import pytest
import torch

import probes
from probes.files import atomic_path, write_json
from tests.conftest import tiny_model

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_in_the_tree_unpickles():
    forbidden = re.compile(
        r"\bpickle\b|joblib\.load|torch\.(load|save)\(|yaml\.load\((?!.*SafeLoader)|trust_remote_code=True"
    )
    for package in ("probes", "steering", "experiments", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            assert not forbidden.search(path.read_text()), path


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


def test_identity_changes_with_weights_dtype_and_adapter(tmp_path):
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
    assert probes.load(folders[0]).identity in identities


def test_a_direction_is_not_saved_with_a_wrong_norm():
    with pytest.raises(probes.DataError, match="unit norm"):
        probes.Direction(2 * torch.eye(2), (0, 1), torch.ones(2))
    with pytest.raises(probes.DataError, match="zero or not finite"):
        probes.Direction.from_vectors(torch.zeros(1, 4), (0,))
