"""Activations on disk when something is wrong: bad input, damaged files, a full disk, hooks."""

import errno
import json
import os

import pytest
import torch
from safetensors.torch import save_file

import probes
import probes.storage
import steering
from probes.files import sha256_file, write_json
from probes.shards import StoredActivations
from probes.storage import capture_to_disk
from tests.conftest import TEXTS, tiny_model
from tests.test_storage import MANY, contents, forwards, store

SHARD = "000002.safetensors"


def flip_a_bit(path):
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)


def truncate(path):
    os.truncate(path, path.stat().st_size - 4)


def reshape(path):
    """Another shape with a manifest that vouches for it: only reading the values can tell."""
    save_file({"values": torch.zeros(4, 3, 31), "norms": torch.ones(3)}, path)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["shards"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    write_json(path.parent / "manifest.json", manifest)


def unreadable(path):
    """Not safetensors at all, though of the right size."""
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (truncate, r"has \d+ bytes, not \d+"),
        (flip_a_bit, "does not match its checksum"),
        (reshape, r"shape \[4, 3, 31\], not \[4, 3, 32\]"),
    ],
)
def test_a_damaged_shard_is_named_and_captured_again(tmp_path, damage, message):
    stored = store(tmp_path)
    before = contents(stored.folder)
    damage(stored.folder / SHARD)
    with pytest.raises(probes.ArtefactError, match=rf"{SHARD}.*{message}.*capture_to_disk"):
        StoredActivations.open(stored.folder).load()
    (stored.folder / SHARD).unlink(missing_ok=True)
    model = tiny_model()
    passes = forwards(model)
    assert contents(store(tmp_path, model).folder) == before
    assert len(passes) == 1


def test_a_capture_goes_on_only_from_shards_that_are_whole(tmp_path):
    stored = store(tmp_path)
    before = contents(stored.folder)
    (stored.folder / "000000.safetensors").unlink()
    flip_a_bit(stored.folder / SHARD)
    model = tiny_model()
    passes = forwards(model)
    assert contents(store(tmp_path, model).folder) == before
    assert len(passes) == 2


def test_only_the_shards_that_are_needed_are_read(tmp_path):
    stored = store(tmp_path)
    wanted = stored.load(rows=slice(0, 8)).values
    unreadable(stored.folder / SHARD)
    for verify in (True, False):
        fresh = StoredActivations.open(stored.folder, verify=verify)
        assert torch.equal(fresh.load(rows=slice(0, 8)).values, wanted)
        with pytest.raises(probes.ArtefactError, match=SHARD):
            fresh.load(rows=[8])


def test_each_shard_is_verified_once(tmp_path, monkeypatch):
    hashed = []
    stored = store(tmp_path)
    monkeypatch.setattr(
        probes.shards, "sha256_file", lambda path: (hashed.append(path.name), sha256_file(path))[1]
    )
    for layer in stored.layers:
        stored.load(layer)
    assert sorted(hashed) == sorted(stored.manifest.names)
    StoredActivations.open(stored.folder, verify=False).load()
    assert len(hashed) == 4


def test_a_shard_that_vanishes_after_opening_is_named(tmp_path):
    stored = store(tmp_path)
    (stored.folder / SHARD).unlink()
    for verify in (True, False):
        object.__setattr__(stored, "verify", verify)
        with pytest.raises(probes.ArtefactError, match=rf"{SHARD} cannot be read"):
            stored.load()


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["facts"].update(model="another"),
        lambda m: m["facts"].update(rows=16),
        lambda m: m["shards"].pop(SHARD),
        lambda m: m["shards"].update({"../000009.safetensors": m["shards"].pop(SHARD)}),
        lambda m: m["norms"].pop(),
        lambda m: m.update(shard_texts=3),
        lambda m: m.update(shard_texts=0),
        lambda m: m.pop("facts"),
        lambda m: m.update(extra=1),
        None,
    ],
)
def test_a_damaged_manifest_is_refused_and_made_again(tmp_path, edit):
    stored = store(tmp_path)
    before = contents(stored.folder)
    path = stored.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if edit is None:
        path.write_text(path.read_text()[:200])
    else:
        edit(manifest)
        write_json(path, manifest)
    with pytest.raises(probes.ArtefactError, match=r"manifest\.json"):
        StoredActivations.open(stored.folder)
    assert contents(store(tmp_path).folder) == before


def test_the_manifest_of_another_key_is_not_believed(tmp_path):
    mean, last = store(tmp_path, pool="mean"), store(tmp_path, pool="last")
    wanted = contents(last.folder)
    for name, raw in contents(mean.folder).items():
        (last.folder / name).write_bytes(raw)
    assert contents(store(tmp_path, pool="last").folder) == wanted


def test_a_full_disk_keeps_the_shards_before_it(tmp_path, monkeypatch):
    written = []

    def full(tensors, path, metadata):
        if len(written) == 2:
            path.write_bytes(b"part")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(probes.storage, "save_file", full)
    with pytest.raises(probes.ArtefactError, match=rf"cannot write .*{SHARD}.*No space.*free some"):
        store(tmp_path)
    monkeypatch.undo()
    folder = next(tmp_path.iterdir())
    assert set(contents(folder)) == {"manifest.json", "000000.safetensors", "000001.safetensors"}
    model = tiny_model()
    passes = forwards(model)
    assert len(store(tmp_path, model).load()) == 15
    assert len(passes) == 2


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(probes.ArtefactError, match=r"cannot write into .*choose another folder"):
        store(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "texts is empty"),
        ("one string", {}, "texts is a str"),
        ((text for text in TEXTS), {}, "texts is a generator; pass a sequence"),
        ({0: "a"}, {}, "texts is a dict"),
        ([*TEXTS, None], {}, "text 5 is not a chat"),
        ([*TEXTS, ""], {}, "counting texts from text 4: text 1 is empty"),
        (TEXTS, {"shard_texts": 0}, "at least one text"),
        (TEXTS, {"layers": 3}, "layer 3 is out of range"),
        (TEXTS, {"pool": "max"}, "pool 'max' is unknown"),
        (TEXTS, {"pool": 3}, "pool is a int"),
        (TEXTS, {"pool": [(0, 1)]}, "1 ranges were given for 5 texts"),
        (TEXTS, {"pool": [(0, 4)] * 4 + [(1,)]}, r"range \(1,\) of text 4"),
        (TEXTS, {"pool": [(0, 4)] * 4 + [(99, 100)]}, "from text 4: .*text 0"),
    ],
)
def test_bad_input_is_named(tmp_path, texts, options, message):
    with pytest.raises(probes.StorypriorError, match=message):
        store(tmp_path, texts=texts, **options)


def test_a_model_without_identity_cannot_be_stored(llama, tmp_path):
    with pytest.raises(probes.ModelError, match=r"no identity.*identity="):
        store(tmp_path, probes.wrap(llama.model, llama.tokenizer))


def test_a_steered_model_is_not_stored_under_the_name_of_the_plain_one(llama, tmp_path):
    llama.model(torch.tensor([[1, 5]]), output_hidden_states=True)  # leaves hooks of its own
    plain = store(tmp_path, llama)
    direction = probes.Direction.from_vectors(torch.ones(1, 32), (1,), norms=torch.ones(1))
    with (
        steering.steer(llama, steering.Add(direction, 1.0)),
        pytest.raises(probes.ModelError, match=r"a hook of steering.* acts on model"),
    ):
        store(tmp_path, llama)
    assert store(tmp_path, llama).folder == plain.folder


@pytest.mark.parametrize("what", ["outer", "nothing", "file"])
def test_a_folder_without_stored_activations_says_what_to_pass(tmp_path, what):
    store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(probes.ArtefactError, match=r"holds no stored activations.*\.folder"):
        StoredActivations.open(tmp_path if what == "outer" else tmp_path / what)


def test_activations_that_are_not_finite_are_stored_as_they_are_and_refused_by_fit(llama, tmp_path):
    with torch.no_grad():
        llama.blocks[1].mlp.down_proj.weight.fill_(float("nan"))
    stored = store(tmp_path, llama)
    assert stored.norms.isnan().tolist() == [False, True, True]
    assert stored.load(0).values.isfinite().all()
    with pytest.raises(probes.DataError, match="not finite: text 0, layer 1"):
        probes.fit(stored.load(1), [k % 2 for k in range(15)])


def test_never_more_than_one_shard_is_in_memory(llama, tmp_path, monkeypatch):
    sizes = []
    original = probes.storage.capture
    monkeypatch.setattr(
        probes.storage,
        "capture",
        lambda model, texts, **options: (
            sizes.append(len(texts)),
            original(model, texts, **options),
        )[1],
    )
    store(tmp_path / "given", llama)
    assert sizes == [4, 4, 4, 3]
    sizes.clear()
    monkeypatch.setattr(probes.storage, "SHARD_BYTES", 6 * 3 * 32 * 4 + 1)
    capture_to_disk(llama, MANY, tmp_path / "by size")
    assert sizes == [6, 6, 3]
    sizes.clear()
    monkeypatch.setattr(probes.storage, "SHARD_BYTES", 1)
    capture_to_disk(llama, MANY[:2], tmp_path / "wide")
    assert sizes == [1, 1]
