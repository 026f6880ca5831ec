"""`.pt` files of other tools: round trips, layouts told apart, and every kind of content to refuse."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from probes import ArtefactError, DataError
from probes.formats import (
    ModelShape,
    read_control_vector,
    read_direction,
    read_pt,
    write_control_vector,
    write_pt,
)
from tests.test_formats import direction

MODEL = ModelShape(n_layers=4, d_model=6)


def saved(path: Path, content) -> Path:
    torch.save(content, path)
    return path


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["pickle", "zip", "old zip", "among tensors"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run(tmp_path, how):
    made, path = tmp_path / "made", tmp_path / "v.pt"
    malice = Malice(f"touch {made}")
    if how == "pickle":
        path.write_bytes(pickle.dumps(malice, protocol=2))
    elif how == "among tensors":
        torch.save({"layer_activations": {0: torch.ones(6)}, "more": malice}, path)
    else:
        torch.save(malice, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ArtefactError, match=r"would call (posix|nt)\.system"):
        read_direction(path, model=MODEL)
    assert not made.exists()
    if how == "pickle":  # and it is real
        pickle.loads(path.read_bytes())
        assert made.exists()


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(["persona_vectors", "per_layer", "steering_vectors"]),
    depth=st.integers(1, 8),
    d_model=st.integers(1, 40),
    strength=st.floats(0.01, 1e6) | st.floats(-1e6, -0.01),
    data=st.data(),
)
def test_pt_files_read_and_write_to_the_same_vectors(
    tmp_path_factory, layout, depth, d_model, strength, data
):
    folder, model = tmp_path_factory.mktemp("round"), ModelShape(depth, d_model)
    layers = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=1)))
    ours = direction(layers, d_model)
    path = write_pt(ours, folder / "v.pt", layout=layout, model=model, strength=strength)
    read = read_pt(path, model=model)
    assert read.layers == tuple(layers)
    assert read.provenance["format"] == f"{layout} .pt"
    torch.testing.assert_close(read.vectors, ours.vectors * np.sign(strength))
    assert read.provenance["lengths"] == pytest.approx((abs(strength) * ours.norms).tolist())
    again = write_pt(read, folder / "w.pt", layout=layout, model=model, units="kept")
    written, kept = (torch.load(file, weights_only=True) for file in (path, again))
    if layout == "steering_vectors":
        assert written.pop("layer_type") == kept.pop("layer_type")
    torch.testing.assert_close(kept, written)


def test_the_two_tables_differ_by_the_row_of_the_embedding(tmp_path):
    ours = direction((1, 3), layer=3)
    options = {"model": MODEL, "units": "raw", "strength": 2.0}
    path = write_pt(ours, tmp_path / "p.pt", layout="persona_vectors", **options)
    persona = torch.load(path, weights_only=True)
    path = write_pt(ours, tmp_path / "a.pt", layout="per_layer", **options)
    per_layer = torch.load(path, weights_only=True)
    assert (persona.shape, per_layer.shape) == ((5, 6), (4, 6))
    torch.testing.assert_close(persona[4], 2 * ours.at(3))
    torch.testing.assert_close(per_layer[3], 2 * ours.at(3))
    assert not persona[[0, 1, 3]].any()
    assert not per_layer[[0, 2]].any()


def test_tables_of_other_tools_are_read_by_their_number_of_rows(tmp_path):
    rows = torch.arange(1.0, 31).reshape(5, 6)
    persona = read_pt(saved(tmp_path / "p.pt", rows.to(torch.bfloat16)), model=MODEL)
    axis = {"axis": rows, "default_mean": -rows, "n_roles": 275}
    five = ModelShape(5, 6)
    for read in (
        read_pt(saved(tmp_path / "b.pt", rows), model=five),
        read_pt(saved(tmp_path / "c.pt", axis), model=five),
    ):
        assert read.layers == (0, 1, 2, 3, 4)
        torch.testing.assert_close(read.at(3), rows[3] / rows[3].norm())
    assert persona.layers == (0, 1, 2, 3)
    torch.testing.assert_close(persona.at(3), rows[4] / rows[4].norm())


def test_a_dictionary_of_steering_vectors_acts_at_the_selected_layer_alone(tmp_path):
    path = write_pt(direction(layer=2), tmp_path / "s.pt", layout="steering_vectors", model=MODEL)
    content = torch.load(path, weights_only=True)
    assert content["layer_type"] == "decoder_block"
    assert list(content["layer_activations"]) == [2]
    torch.testing.assert_close(content["layer_activations"][2], 3 * direction().at(2))
    without_type = {"layer_activations": {1: torch.ones(6, requires_grad=True)}}
    assert read_pt(saved(path, without_type), model=MODEL).layers == (1,)


TABLE = torch.ones(4, 6)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (torch.ones(6, 6), DataError, "6 rows but the model has 4 layers"),
        (torch.ones(3, 6), DataError, "3 rows"),
        (torch.ones(4, 7), DataError, "width 7 but the model has 6"),
        (torch.ones(6), ArtefactError, r"shape \(6,\)"),
        (torch.ones(1, 4, 6), ArtefactError, r"shape \(1, 4, 6\)"),
        (torch.ones(4, 6, dtype=torch.long), ArtefactError, "int64"),
        (torch.ones(4, 6, dtype=torch.complex64), ArtefactError, "complex64"),
        (torch.ones(4, 6, device="meta"), ArtefactError, "on meta"),
        (TABLE.to_sparse(), ArtefactError, "sparse"),
        (TABLE.numpy(), ArtefactError, "numpy|ndarray"),
        (torch.ones(1, 1).expand(2**40, 6), DataError, "rows"),
        (TABLE * torch.nan, ArtefactError, "layer 0 is not finite"),
        (TABLE * 0, ArtefactError, "other than zeros"),
        ([TABLE], ArtefactError, "is a list"),
        (None, ArtefactError, "is a NoneType"),
        ({"vector": TABLE, "role": "pirate"}, ArtefactError, r"keys \['vector', 'role'\]"),
        ({"axis": [1.0]}, ArtefactError, "is a list"),
        ({"layer_activations": {}}, ArtefactError, "must map"),
        ({"layer_activations": TABLE}, ArtefactError, "must map"),
        ({"layer_activations": {"1": TABLE[0]}}, ArtefactError, "key '1'"),
        ({"layer_activations": {-1: TABLE[0]}}, ArtefactError, "key -1"),
        ({"layer_activations": {True: TABLE[0]}}, ArtefactError, "key True"),
        ({"layer_activations": {1: TABLE}}, ArtefactError, r"\[1\] is a .*shape \(4, 6\)"),
        ({"layer_activations": {1: 3.0}}, ArtefactError, r"\[1\] is a float"),
        ({"layer_activations": {1: torch.ones(6), 2: torch.ones(5)}}, ArtefactError, "widths"),
        ({"layer_activations": {4: torch.ones(6)}}, DataError, "layer 4"),
        ({"layer_activations": {1: torch.ones(6)}, "layer_type": "mlp"}, ArtefactError, "'mlp'"),
    ],
    ids=str,
)
def test_pt_files_with_other_contents_are_refused(tmp_path, content, error, words):
    with pytest.raises(error, match=words):
        read_pt(saved(tmp_path / "v.pt", content), model=MODEL)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused(tmp_path):
    path = saved(tmp_path / "v.pt", torch.nested.nested_tensor([TABLE[0], TABLE[0]]))
    with pytest.raises(ArtefactError, match="but nested"):
        read_pt(path, model=MODEL)


def test_a_pickled_object_is_refused_with_the_way_to_save_its_tensors(tmp_path):
    path = saved(tmp_path / "v.pt", MODEL)
    with pytest.raises(ArtefactError, match=r"formats\.vectors\.ModelShape.*asdict"):
        read_pt(path, model=MODEL)


def test_a_damaged_pt_file_is_refused(tmp_path):
    path = saved(tmp_path / "v.pt", TABLE)
    whole = path.read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtefactError):
            read_direction(path, model=MODEL)


def test_files_above_the_limit_are_not_read(tmp_path, monkeypatch):
    large = tmp_path / "large.pt"
    with large.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(2**30 + 1)  # sparse: takes no room
    for read in (read_pt, read_control_vector, read_direction):
        with pytest.raises(ArtefactError, match=r"takes 1\.0 GiB"):
            read(large, model=MODEL)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(4_000_000))
    assert bomb.stat().st_size < 10_000
    monkeypatch.setattr(probes.formats.pt, "MAX_BYTES", 1_000_000)
    with pytest.raises(ArtefactError, match="unpacks to"):
        read_pt(bomb, model=MODEL)


def test_a_table_is_not_written_for_a_model_that_the_direction_does_not_fit(tmp_path):
    for layout in ("persona_vectors", "per_layer", "steering_vectors"):
        for shape, words in ((ModelShape(4, 7), "width 6"), (ModelShape(3, 6), "layer 3")):
            with pytest.raises(DataError, match=words):
                write_pt(direction(), tmp_path / "v.pt", layout=layout, model=shape)
    with pytest.raises(DataError, match="layout 'dense' is unknown"):
        write_pt(direction(), tmp_path / "v.pt", layout="dense", model=MODEL)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_steers_as_what_was_written(tmp_path, llama):
    import steering

    ours = direction((0, 1, 2), llama.d_model, layer=1)
    path = write_control_vector(ours, tmp_path / "v.gguf", model_hint="llama", strength=0.5)
    read = read_direction(path, model=llama)
    prompt = "The ferry left"
    options = {"max_new_tokens": 8}
    with steering.steer(llama, steering.Add(ours, strength=0.5)):
        expected = llama.generate(prompt, **options)
    (length,) = read.provenance["lengths"]
    with steering.steer(llama, steering.Add(read, strength=length, units="raw")):
        assert llama.generate(prompt, **options) == expected
    assert llama.generate(prompt, **options) != expected
