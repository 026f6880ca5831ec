"""Control vectors, and the one entry for every format: round trips, lengths, signs, refusals."""

import dataclasses
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from probes import ArtefactError, DataError, LayerError
from probes.formats import (
    ModelShape,
    read_control_vector,
    read_direction,
    read_pt,
    write_control_vector,
    write_pt,
)

MODEL = ModelShape(n_layers=4, d_model=6)


def direction(layers=(0, 1, 2, 3), d_model=6, *, seed=0, **facts) -> probes.Direction:
    generator = torch.Generator().manual_seed(seed)
    facts = {"norms": torch.arange(1.0, len(layers) + 1), "name": "villain"} | facts
    return probes.Direction.from_vectors(
        torch.randn(len(layers), d_model, generator=generator), tuple(layers), **facts
    )


def gguf_file(path: Path, tensors: dict, *, architecture="controlvector", **options) -> Path:
    """A GGUF file as other tools write it."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    writer.add_string("controlvector.model_hint", "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, np.asarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}


F32 = np.float32
VECTOR = np.array([0, 3, 0, 0, -4, 0], F32)


def test_a_control_vector_has_the_keys_and_tensors_that_llama_cpp_reads(tmp_path):
    chosen = direction(layer=2)
    path = write_control_vector(chosen, tmp_path / "v.gguf", model_hint="llama", strength=0.5)
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    count = reader.get_field("controlvector.layer_count")
    assert (count.contents(), count.types) == (1, [gguf.GGUFValueType.UINT32])
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name) == ("direction.2", "F32")
    assert tensor.shape.tolist() == [6]
    # Half of the mean residual norm of layer 2, which is 3, towards the concept.
    np.testing.assert_allclose(tensor.data, 1.5 * chosen.at(2).numpy(), rtol=1e-6)


def test_all_layers_are_written_where_none_is_selected_and_chosen_ones_where_told(tmp_path):
    free = direction((1, 2, 3))
    path = write_control_vector(free, tmp_path / "all.gguf", model_hint="llama", units="raw")
    assert list(tensors_of(path)) == ["direction.1", "direction.2", "direction.3"]
    path = write_control_vector(
        free, tmp_path / "two.gguf", model_hint="llama", units="raw", strength=-2, layers=[3, 1]
    )
    written = tensors_of(path)
    assert list(written) == ["direction.1", "direction.3"]
    np.testing.assert_allclose(written["direction.3"], -2 * free.at(3).numpy(), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    layers=st.sets(st.integers(1, 90), min_size=1, max_size=6).map(sorted),
    d_model=st.integers(1, 70),
    lengths=st.lists(st.floats(1e-25, 1e25), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_a_control_vector_reads_and_writes_to_the_same_tensors(
    tmp_path_factory, layers, d_model, lengths, seed
):
    folder = tmp_path_factory.mktemp("round")
    rows = direction(layers, d_model, seed=seed).vectors
    given_tensors = {
        f"direction.{layer}": (row.double() * length).float().numpy()
        for layer, row, length in zip(layers, rows, lengths, strict=False)
    }
    path = gguf_file(folder / "theirs.gguf", given_tensors)
    read = read_control_vector(path)
    assert read.layers == tuple(layers)
    assert read.norms is None
    np.testing.assert_allclose(read.provenance["lengths"], lengths[: len(layers)], rtol=1e-5)
    torch.testing.assert_close(read.vectors, rows, rtol=1e-5, atol=1e-6)  # the sign as well
    ours = read.save(folder / "ours.safetensors")
    again = write_control_vector(
        probes.Direction.load(ours), folder / "again.gguf", model_hint="llama", units="kept"
    )
    written = tensors_of(again)
    assert written.keys() == given_tensors.keys()
    for name, values in given_tensors.items():
        np.testing.assert_allclose(written[name], values, rtol=1e-6)


def test_name_hint_and_file_are_kept_and_a_single_layer_is_selected(tmp_path):
    path = write_control_vector(
        direction((2,), name="honesty"), tmp_path / "v.gguf", model_hint="qwen3"
    )
    read = read_control_vector(path, model=MODEL)
    assert (read.name, read.layer) == ("honesty", 2)
    assert read.provenance["model_hint"] == "qwen3"
    assert read.provenance["file"] == "v.gguf"
    nameless = gguf_file(tmp_path / "anger.gguf", {"direction.1": VECTOR, "direction.2": VECTOR})
    read = read_control_vector(nameless)
    assert (read.name, read.layer) == ("anger", None)


def test_layers_of_zeros_are_absent(tmp_path):
    path = gguf_file(tmp_path / "v.gguf", {"direction.1": VECTOR, "direction.2": np.zeros(6, F32)})
    read = read_control_vector(path)
    assert read.layers == (1,)
    assert read.provenance["lengths"] == [5.0]
    assert read.vectors.tolist() == [pytest.approx([0, 0.6, 0, 0, -0.8, 0])]


def test_half_precision_layer_zero_and_big_endian_files_are_read(tmp_path):
    path = gguf_file(tmp_path / "half.gguf", {"direction.0": VECTOR.astype(np.float16)})
    assert read_control_vector(path).layers == (0,)
    path = gguf_file(tmp_path / "big.gguf", {"direction.1": VECTOR}, endianess=gguf.GGUFEndian.BIG)
    assert read_control_vector(path).provenance["lengths"] == [5.0]


def test_layer_zero_cannot_be_written_for_llama_cpp(tmp_path):
    with pytest.raises(LayerError, match=r"cannot steer layer 0.*layers=\[1, 2, 3\]"):
        write_control_vector(direction(), tmp_path / "v.gguf", model_hint="llama")
    with pytest.raises(LayerError, match="choose a later layer"):
        write_control_vector(direction(layer=0), tmp_path / "v.gguf", model_hint="llama")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"strength": 0}, DataError, "other than zero"),
        ({"strength": float("nan")}, DataError, "finite"),
        ({"strength": True}, DataError, "finite"),
        ({"strength": 1e39, "units": "raw"}, DataError, "float32 cannot hold"),
        ({"strength": 1e-60, "units": "raw"}, DataError, "float32 cannot hold"),
        ({"units": "norm"}, DataError, "unknown"),
        ({"units": "kept"}, DataError, "not read from a file"),
        ({"layers": []}, LayerError, "at least one"),
        ({"layers": [1, 1]}, LayerError, "each once"),
        ({"layers": [7]}, LayerError, "no layer 7"),
        ({"model_hint": ""}, DataError, "model_hint"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_file_is_touched(
    tmp_path, options, error, words
):
    path = tmp_path / "v.gguf"
    path.write_text("as before")
    with pytest.raises(error, match=words):
        write_control_vector(direction(layer=1), path, **({"model_hint": "llama"} | options))
    assert path.read_text() == "as before"


def test_without_residual_norms_lengths_must_be_raw_or_kept(tmp_path):
    bare = direction(layer=1, norms=None)
    with pytest.raises(DataError, match='units="raw"'):
        write_control_vector(bare, tmp_path / "v.gguf", model_hint="llama")
    write_control_vector(bare, tmp_path / "v.gguf", model_hint="llama", units="raw", strength=3)
    assert read_control_vector(tmp_path / "v.gguf").provenance["lengths"] == pytest.approx([3])
    for damaged in ([1.0, 2.0], ["5"] * 4, 5.0):
        worse = dataclasses.replace(bare, provenance={"lengths": damaged})
        with pytest.raises(DataError, match="not read from a file"):
            write_control_vector(worse, tmp_path / "v.gguf", model_hint="llama", units="kept")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no direction.N"),
        ({"direction.1": np.zeros(6, F32)}, "no vector other than zeros"),
        ({"direction.1": VECTOR * np.nan}, "layer 1 is not finite"),
        ({"direction.1": VECTOR, "direction.2": VECTOR + F32(np.inf)}, "layer 2 is not finite"),
        ({"direction.1": VECTOR, "direction.2": VECTOR[:4]}, r"widths \[4, 6\]"),
        ({"direction.1": VECTOR.astype(np.float64)}, "F64"),
        ({"direction.1": VECTOR.astype(np.int32)}, "I32"),
        ({"direction.1": VECTOR.reshape(2, 3)}, r"shape \[3, 2\]"),
        ({"direction.one": VECTOR}, "'direction.one'"),
        ({"direction.-1": VECTOR}, "'direction.-1'"),
        ({"direction.01": VECTOR}, "'direction.01'"),
        ({"token_embd.weight": VECTOR}, "'token_embd.weight'"),
    ],
)
def test_broken_control_vectors_are_refused(tmp_path, tensors, words):
    path = gguf_file(tmp_path / "v.gguf", tensors)
    with pytest.raises(ArtefactError, match=words):
        read_control_vector(path)


def test_a_model_is_no_control_vector(tmp_path):
    path = gguf_file(tmp_path / "m.gguf", {"direction.1": VECTOR}, architecture="llama")
    with pytest.raises(ArtefactError, match=r"architecture 'llama', a model perhaps"):
        read_control_vector(path)


def test_a_control_vector_of_another_model_is_refused(tmp_path):
    path = gguf_file(tmp_path / "v.gguf", {"direction.3": VECTOR})
    assert read_control_vector(path, model=MODEL).layers == (3,)
    with pytest.raises(DataError, match="width 6 but the model has 8"):
        read_control_vector(path, model=ModelShape(4, 8))
    with pytest.raises(DataError, match="layer 3 but the model has layers 0 to 2"):
        read_control_vector(path, model=ModelShape(3, 6))


def test_a_control_vector_cut_short_anywhere_is_refused(tmp_path):
    path = write_control_vector(direction((1, 2)), tmp_path / "v.gguf", model_hint="llama")
    whole = path.read_bytes()
    reached = gguf.GGUFReader(path).tensors[-1]
    for size in range(reached.data_offset + reached.n_bytes):  # padding follows
        path.write_bytes(whole[:size])
        with pytest.raises(ArtefactError):
            read_control_vector(path)


def test_a_list_that_claims_to_be_endless_is_refused_at_once(tmp_path):
    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    array_of_bytes = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8, 2**60)
    path = tmp_path / "v.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"list") + array_of_bytes)
    with pytest.raises(ArtefactError, match="ends early"):
        read_control_vector(path)


def test_any_format_is_told_by_its_content_whatever_its_name(tmp_path, llama):
    ours = direction((1, 2), llama.d_model)
    path = tmp_path / "vector"
    ours.save(path)
    assert read_direction(path, model=llama).name == "villain"
    torch.testing.assert_close(read_direction(path).vectors, ours.vectors)
    write_control_vector(ours, path, model_hint="llama")
    torch.testing.assert_close(read_direction(path, model=llama).vectors, ours.vectors)
    assert read_direction(path).provenance["format"] == "llama.cpp control vector"
    for layout in ("persona_vectors", "per_layer", "steering_vectors"):
        write_pt(ours, path, layout=layout, model=llama)
        read = read_direction(path, model=llama)
        torch.testing.assert_close(read.vectors, ours.vectors)
        assert read.provenance["format"] == f"{layout} .pt"
        with pytest.raises(DataError, match="pass model="):
            read_direction(path)
    torch.save(torch.ones(3, 32), path, _use_new_zipfile_serialization=False)
    assert read_direction(path, model=llama).layers == (0, 1, 2)


def test_our_own_file_must_fit_the_model_too(tmp_path):
    path = direction().save(tmp_path / "v.safetensors")
    with pytest.raises(DataError, match="width 6"):
        read_direction(path, model=ModelShape(4, 5))
    with pytest.raises(DataError, match="layer 3"):
        read_direction(path, model=ModelShape(3, 6))


@pytest.mark.parametrize("content", [b"", b"G", b"vector", b"{}", bytes(64), b"[1, 2, 3, 4, 5]"])
def test_files_of_no_known_format_are_refused(tmp_path, content):
    path = tmp_path / "v"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="neither"):
        read_direction(path, model=MODEL)


def test_missing_files_and_folders_are_refused(tmp_path):
    for read in (read_direction, read_pt, read_control_vector):
        with pytest.raises(ArtefactError, match="No such file"):
            read(tmp_path / "absent", model=MODEL)
        with pytest.raises(ArtefactError, match="not a file"):
            read(tmp_path, model=MODEL)
