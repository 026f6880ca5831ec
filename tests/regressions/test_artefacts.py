"""No pickle, no half-written file, and an identity that notices every change."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import probes
from probes import conversion
from probes.adapters import attach, identity_with
from probes.files import atomic_path, write_json
from tests.conftest import tiny_model
from tests.test_models import adapter_for

ROOT = Path(__file__).resolve().parents[2]


FORBIDDEN = re.compile(
    r"(import|from) (\w*pickle|dill|shelve|marshal)\b|\bpickle\.\w|joblib\.load|joblib import .*load"
    r"|read_pickle"
    r"|allow_pickle=True|torch\.load\((?![^()]*weights_only=True\))|torch\.save\("
    r"|yaml\.load\((?!.*SafeLoader)|trust_remote_code=True"
)


def test_nothing_in_the_tree_unpickles():
    for package in ("probes", "steering", "experiments", "benchmarks", "docs"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            if path.name == "pt.py":  # the format of other tools, written from bare tensors
                text = text.replace("torch.save(content, buffer)", "")
                text = text.replace('"torch.save(dataclasses.asdict', "")
            if path.name == "nnsight.py":  # puts back what nnsight leaves in its registry
                text = text.replace("import cloudpickle\n", "")
            assert not FORBIDDEN.search(text), path


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ('torch.load(path, map_location="cpu", weights_only=True)', False),
        ("torch.save(x, path)", True),
        ("import pickle", True),
        ("from pickle import loads", True),
        ("import cloudpickle", True),
        ("from joblib import load", True),
        ("from joblib import Parallel, delayed", False),
        ("np.load(path, allow_pickle=True)", True),
        ("np.load(path)", False),
        ("pd.read_pickle(path)", True),
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


def test_weights_are_not_read_from_a_pickle_even_where_it_is_in_order(tmp_path):
    """A folder whose weights are the right ones, in a file that could run code when opened."""
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(probes.ModelError, match="cannot load the model in this folder"):
        probes.load(tmp_path)


def test_an_adapter_is_not_read_from_a_pickle(tmp_path):
    """PEFT opens `adapter_model.bin` where there is no safetensors file."""
    base = tiny_model("llama")
    folder = adapter_for(base, tmp_path / "adapter")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(probes.ModelError, match=r"adapter_model\.safetensors does not exist"):
        attach(base.model, folder)


def test_a_model_from_a_gguf_file_loses_its_marks_of_quantisation(tmp_path):
    """transformers refuses to save a model that it has dequantised while these are on it."""
    model = tiny_model("llama").model
    method = SimpleNamespace(quant_method="gguf")
    model.hf_quantizer = SimpleNamespace(quantization_config=method)
    model.is_quantized = True
    model.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises(ValueError, match="is not serializable"):
        model.save_pretrained(tmp_path / "refused")
    conversion._forget_quantisation(model)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_identity_holds_the_revision_that_a_hub_id_stands_for(tmp_path, monkeypatch):
    """Two revisions in the hub's cache on disk; branches move, so it is the commit that counts."""
    commits = {"main": "a" * 40, "other": "b" * 40}
    home = tmp_path / "models--owner--name"
    (home / "refs").mkdir(parents=True)
    for seed, (branch, commit) in enumerate(commits.items()):
        model = tiny_model("llama", seed=seed)
        model.model.save_pretrained(home / "snapshots" / commit)
        model.tokenizer.save_pretrained(home / "snapshots" / commit)
        (home / "refs" / branch).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    names = {name: probes.load("owner/name", revision=name) for name in ("main", "other")}
    assert names["main"].identity != names["other"].identity
    assert names["main"].identity == probes.load("owner/name").identity
    assert names["other"].identity == probes.load("owner/name", revision="b" * 40).identity
    values = [probes.capture(model, ["The ferry left."]).values for model in names.values()]
    assert not torch.allclose(*values)


def test_identity_holds_how_an_adapter_is_applied(tmp_path):
    """The same LoRA weights at another `lora_alpha` are another model; where the base lay is not."""
    folder = adapter_for(tiny_model("llama"), tmp_path / "adapter")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    before = identity_with("base", folder)
    path.write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere"}))
    assert identity_with("base", folder) == before
    path.write_text(json.dumps({**config, "lora_alpha": 2 * config["lora_alpha"]}))
    assert identity_with("base", folder) != before


@pytest.mark.parametrize("name", ["special_tokens_map.json", "vocab.json", "merges.txt"])
def test_identity_holds_every_file_of_the_tokenizer(tmp_path, name):
    """Older folders spread their tokenizer over several files; folders inside are none of it."""
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    identities = {probes.load(tmp_path).identity}
    (tmp_path / name).write_text("{}")
    identities.add(probes.load(tmp_path).identity)
    assert len(identities) == 2
