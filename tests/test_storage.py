"""Activations on disk: the same values as in memory, kept through kills, faults and other processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import probes
import probes.storage
from probes.shards import Facts, StoredActivations
from probes.storage import capture_to_disk
from tests.conftest import TEXTS, tiny_model

ROOT = Path(__file__).resolve().parents[1]
MANY = [f"{text} {k}" for k in range(3) for text in TEXTS]  # 15 texts, in shards of 4, 4, 4 and 3
FLOOR = {"rtol": 5e-5, "atol": 1e-6}


def forwards(model: probes.LanguageModel, before=lambda count: None) -> list[int]:
    """A list that grows by one with every forward pass; `before` is called first, with its number."""
    passes: list[int] = []
    forward = model.model.forward

    def counted(*args, **kwargs):
        passes.append(1)
        before(len(passes))
        return forward(*args, **kwargs)

    model.model.forward = counted
    return passes


def contents(folder: Path) -> dict[str, bytes]:
    """All files that a finished capture leaves."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def store(folder, model=None, texts=MANY, **options) -> StoredActivations:
    """The capture that most tests are about."""
    return capture_to_disk(model or tiny_model(), texts, folder, **{"shard_texts": 4, **options})


CHATS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": "No."}] for text in MANY
]

UNSAID = [[{"role": role, "content": "No."} for role in ("user", "assistant")]]


@pytest.mark.parametrize(
    ("texts", "pool"),
    [
        (MANY, "last"),
        (MANY, "mean"),
        (MANY, [(k % 4, 9 + k % 3) for k in range(15)]),
        ([*MANY[:7], *CHATS[7:], MANY[0]], "last"),
        ([MANY[0]] * 9, "mean"),
    ],
)
def test_what_is_stored_is_what_capture_gives(llama, tmp_path, texts, pool):
    whole = probes.capture(llama, texts, pool=pool)
    one = store(tmp_path / "one", llama, texts, pool=pool, shard_texts=99)
    several = store(tmp_path / "several", llama, texts, pool=pool, progress=True)
    assert len(one.manifest.shards) == 1
    assert torch.equal(one.load().values, whole.values)
    assert torch.equal(one.norms, whole.norms)
    assert len(several) == len(texts)
    assert len(several.manifest.shards) == -(-len(texts) // 4)
    acts = several.load()
    torch.testing.assert_close(acts.values, whole.values, **FLOOR)
    torch.testing.assert_close(acts.norms, whole.norms, **FLOOR)
    assert (acts.layers, acts.pool, acts.model) == (whole.layers, whole.pool, whole.model)
    part = probes.capture(llama, texts[4:8], pool=pool if isinstance(pool, str) else pool[4:8])
    assert torch.equal(acts.values[4:8], part.values)


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> StoredActivations:
    return store(tmp_path_factory.mktemp("stored"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(
        st.slices(15),
        st.lists(st.integers(-15, 14)),
        st.lists(st.booleans(), min_size=15, max_size=15),
        st.lists(st.integers(0, 14), min_size=1).map(torch.tensor),
    ),
    layers=st.permutations([0, 1, 2]).flatmap(lambda p: st.integers(1, 3).map(lambda n: p[:n])),
)
def test_any_rows_and_layers_are_those_of_the_whole(stored, rows, layers):
    whole = stored.load()
    index = torch.arange(15)[rows] if not isinstance(rows, slice) else list(range(15))[rows]
    acts = stored.load(layers, rows)
    assert acts.layers == tuple(layers)
    assert torch.equal(acts.values, whole.values[index][:, layers])
    assert torch.equal(acts.norms, whole.norms[layers])


def test_batches_are_the_whole_in_order(stored):
    parts = list(stored.batches(6, layers=[2, 0]))
    assert [len(part) for part in parts] == [6, 6, 3]
    joined = torch.cat([part.values for part in parts])
    assert torch.equal(joined, stored.load([2, 0]).values)
    with pytest.raises(probes.DataError, match="at least 1"):
        next(stored.batches(0))


@pytest.mark.parametrize("method", ["difference_of_means", "logistic"])
def test_a_direction_is_had_one_layer_at_a_time(llama, stored, method):
    labels = [k % 2 for k in range(15)]
    acts = probes.capture(llama, MANY)
    whole = probes.fit(acts, labels, method=method, layer=0)
    for layer in stored.layers:
        alone = probes.fit(stored.load(layer), labels, method=method)
        assert alone.layer == layer
        torch.testing.assert_close(
            alone.direction.at(layer), whole.direction.at(layer), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("rows", "layers", "message"),
    [
        ([15], None, "not among the 15 stored texts"),
        ([0.5], None, "list of integers or a mask"),
        ([True], None, "not among the 15 stored texts"),
        (3, None, "not among the 15 stored texts"),
        (["a"], None, "not among the 15 stored texts"),
        (None, [0, 3], r"layer 3 was not captured; .* holds layers \[0, 1, 2\]"),
    ],
)
def test_rows_and_layers_that_are_not_there_are_named(stored, rows, layers, message):
    with pytest.raises(probes.StorypriorError, match=message):
        stored.load(layers, rows)


def other_template(model):
    model.tokenizer.chat_template += " "


def plain_template(model):
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def without_bos(model):
    from tokenizers import processors

    model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)


CHANGES = {
    "nothing": {},
    "weights": {"identity": "llama-1"},
    "dtype": {"edit": lambda model: model.model.to(torch.bfloat16)},
    "template": {"edit": other_template},
    "tokenizer": {"edit": without_bos},
    "a text": {"texts": [*CHATS[:-1], "Other."]},
    "the order of texts": {"texts": CHATS[::-1]},
    "a text less": {"texts": CHATS[:-1]},
    "texts joined": {"texts": [CHATS[0] + CHATS[1], *CHATS[2:], CHATS[0]]},
    "plain texts": {"texts": MANY},
    "template beside plain texts": {"texts": MANY, "edit": other_template},
    "plain template": {"edit": plain_template},
    "who speaks, rendered alike": {
        "edit": plain_template,
        "texts": [chat[::-1] for chat in UNSAID],
    },
    "who speaks": {"edit": plain_template, "texts": UNSAID},
    "layers": {"layers": [0, 1]},
    "order of layers": {"layers": [1, 0]},
    "pool": {"pool": "mean"},
    "ranges": {"pool": [(0, 9)] * 15},
    "one range": {"pool": [(0, 9)] * 14 + [(0, 10)]},
}


def test_changing_anything_that_values_depend_on_misses(tmp_path):
    import copy

    keys = {}
    for what, change in CHANGES.items():
        model = tiny_model()
        model = dataclasses.replace(
            model,
            tokenizer=copy.deepcopy(model.tokenizer),
            identity=change.get("identity", model.identity),
        )
        change.get("edit", lambda model: None)(model)
        options = {name: change[name] for name in ("layers", "pool") if name in change}
        keys[what] = store(tmp_path, model, change.get("texts", CHATS), **options).folder.name
    assert len(set(keys.values())) == len(keys), keys
    facts = Facts.model_validate(
        json.loads((tmp_path / keys["nothing"] / "manifest.json").read_text())["facts"]
    )
    assert facts.key == keys["nothing"]
    numbers = {"format": 3, "rows": 16, "d_model": 33, "layers": (2, 1, 0)}
    for name in Facts.model_fields:
        other = facts.model_copy(update={name: numbers.get(name, "other")})
        assert other.key != facts.key, name


def test_all_that_a_pooling_object_is_told_is_in_the_key():
    from probes.pooling import After

    told = [After("a"), After("b"), After("a", occurrence="first"), "last", [(0, 1)], [(0, 2)]]
    assert len({probes.storage._pool_fact(pool, 1) for pool in told}) == len(told)


def test_a_finished_capture_needs_no_forward_pass_and_no_writing(tmp_path, monkeypatch):
    first = store(tmp_path)
    model = tiny_model()
    passes = forwards(model)
    monkeypatch.setattr(probes.storage, "_locked", None)
    again = store(tmp_path, model, shard_texts=7, batch_tokens=64, layers=[0, 1, 2])
    assert passes == []
    assert again.folder == first.folder
    assert torch.equal(again.load().values, first.load().values)


def killed_after(folder: str, passes: int, where: str) -> None:
    """Runs in a process of its own, which it kills: in a forward pass, or while it writes a shard."""
    model = tiny_model()

    def kill(count):
        if count > passes:
            os.kill(os.getpid(), signal.SIGKILL)

    def half_written(tensors, path, metadata):
        counted.append(1)
        Path(path).write_bytes(b"half")
        kill(len(counted))
        save_file(tensors, path, metadata=metadata)

    counted: list[int] = []
    if where == "forward":
        forwards(model, kill)
    else:
        probes.storage.save_file = half_written
    store(folder, model)


def python(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"import tests.test_storage as t; {code}"], cwd=ROOT
    )


def test_a_killed_capture_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole = contents(store(tmp_path / "whole").folder)
    killed = {where: tmp_path / where for where in ("forward", "write")}
    processes = [python(f"t.killed_after({str(at)!r}, 2, {w!r})") for w, at in killed.items()]
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    for where, at in killed.items():
        folder = next(at.iterdir())
        left = set(contents(folder))
        assert {"000000.safetensors", "000001.safetensors", "manifest.json"} <= left
        assert len(left) == 3 + (where == "write")  # the half of a shard
        with pytest.raises(probes.ArtefactError, match="unfinished: 2 of 4 shards"):
            StoredActivations.open(folder)
        model = tiny_model()
        passes = forwards(model)
        resumed = store(at, model, shard_texts=9)  # it keeps the 4 it began with
        assert len(passes) == 2
        assert contents(resumed.folder) == whole


def together(folder: str, number: int) -> None:
    """Runs in two processes at once; each says how often it ran the model and what it got."""
    import time

    model = tiny_model()
    passes = forwards(model, lambda count: time.sleep(0.2))
    Path(folder, f"ready-{number}").touch()
    while not all(Path(folder, f"ready-{k}").exists() for k in (0, 1)):
        time.sleep(0.01)
    values = store(Path(folder, "cache"), model).load().values
    save_file({"values": values, "passes": torch.tensor(len(passes))}, f"{folder}/{number}")


def test_two_processes_share_one_capture(tmp_path):
    processes = [python(f"t.together({str(tmp_path)!r}, {k})") for k in (0, 1)]
    assert [process.wait() for process in processes] == [0, 0]
    said = [load_file(tmp_path / str(k)) for k in (0, 1)]
    assert sorted(int(each["passes"]) for each in said) == [0, 4]
    assert torch.equal(said[0]["values"], said[1]["values"])
    assert torch.equal(said[0]["values"], store(tmp_path / "alone").load().values)
