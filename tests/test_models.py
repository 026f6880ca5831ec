"""Loading: folders, adapters, corrupt weights, unknown references, and the packaged model."""

import pytest
import torch

import probes
from probes import conversion
from probes.adapters import attached
from probes.loading import has_fast_bfloat16, resolve_device, resolve_dtype
from tests.conftest import TEXTS, tiny_model


@pytest.fixture
def folder(tmp_path):
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def adapter_for(model, path, *, moved=True):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    wrapped = get_peft_model(
        model.model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    if moved:
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    wrapped.save_pretrained(path)
    wrapped.unload()
    return path


def test_a_folder_loads_and_gives_the_same_activations(folder):
    model = probes.load(str(folder), dtype="float32", device="cpu")
    assert (model.n_layers, model.d_model, model.max_length) == (3, 32, 128)
    assert torch.equal(
        probes.capture(model, TEXTS).values, probes.capture(tiny_model("llama"), TEXTS).values
    )


def test_an_adapter_changes_the_model_and_comes_off_without_trace(folder, tmp_path):
    path = adapter_for(probes.load(folder), tmp_path / "adapter")
    base = probes.load(folder)
    plain = probes.capture(base, TEXTS).values
    adapted = probes.load(folder, adapter=path)
    with attached(base, path) as model:
        inside = probes.capture(model, TEXTS).values
        assert model.identity == adapted.identity != base.identity
    assert torch.equal(inside, probes.capture(adapted, TEXTS).values)
    assert not torch.allclose(inside, plain)
    assert torch.equal(plain, probes.capture(base, TEXTS).values)
    assert all(parameter.requires_grad for parameter in base.model.parameters())


def test_an_adapter_that_does_not_fit_or_does_nothing_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    zero = adapter_for(probes.load(folder), tmp_path / "zero", moved=False)
    with pytest.raises(probes.ModelError, match="changes nothing"):
        probes.load(folder, adapter=zero)
    odd = adapter_for(probes.load(folder), tmp_path / "odd")
    loaded = load_file(odd / "adapter_model.safetensors")
    weights = {name: tensor.clone() for name, tensor in loaded.items()}
    save_file(
        {name.replace("layers.2", "layers.9"): t for name, t in weights.items()},
        odd / "adapter_model.safetensors",
    )
    base = probes.load(folder)
    plain = probes.capture(base, TEXTS).values
    with pytest.raises(probes.ModelError, match="another model"), attached(base, odd):
        pass
    assert torch.equal(plain, probes.capture(base, TEXTS).values)
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    save_file(
        {
            name: tensor[:, :7].contiguous() if "lora_A" in name else tensor
            for name, tensor in weights.items()
        },
        odd / "adapter_model.safetensors",
    )
    with pytest.raises(probes.ModelError, match="size mismatch"), attached(base, odd):
        pass
    assert torch.equal(plain, probes.capture(base, TEXTS).values)
    assert all(parameter.requires_grad for parameter in base.model.parameters())
    assert not any("lora" in name for name, _ in base.model.named_parameters())
    (odd / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(probes.ModelError, match="cannot be read"):
        probes.load(folder, adapter=odd)
    with pytest.raises(probes.ModelError, match="does not exist"):
        probes.load(folder, adapter=tmp_path / "nowhere")


def test_corrupt_and_incomplete_weights_are_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    # Copies: what load_file gives is mapped from the file that is overwritten below.
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(probes.ModelError, match="cannot load the model in this folder"):
        probes.load(folder)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(probes.ModelError, match=r"1 tensors are missing .*layers\.1\.mlp\.up_proj"):
        probes.load(folder)
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle in disguise")
    with pytest.raises(probes.ModelError, match="cannot load"):
        probes.load(folder)


@pytest.mark.parametrize("ref", ["no/such/model", "./nowhere", "absent.gguf", "no model"])
def test_unknown_references_say_what_would_be_known(ref, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(probes.ModelError, match="gemma-3-270m"):
        probes.load(ref)


def test_a_folder_without_a_model_and_a_corrupt_gguf_are_refused(tmp_path, monkeypatch):
    with pytest.raises(probes.ModelError, match=r"no config\.json"):
        probes.load(tmp_path)
    monkeypatch.setenv("STORYPRIOR_CACHE", str(tmp_path / "cache"))
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF but not really")
    with pytest.raises(probes.ModelError, match="cannot be read as a GGUF"):
        probes.load(bad)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_unknown_device_and_dtype_are_named():
    with pytest.raises(probes.ModelError, match="abacus"):
        resolve_device("abacus")
    with pytest.raises(probes.ModelError, match="int3"):
        resolve_dtype("int3", torch.device("cpu"))
    fast = has_fast_bfloat16(torch.device("cpu"))
    assert resolve_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)


def test_a_packaged_file_with_another_checksum_is_refused(tmp_path, monkeypatch):
    import contextlib
    import dataclasses

    path = tmp_path / "tampered.gguf"
    path.write_bytes(b"tampered")
    tampered = dataclasses.replace(
        conversion.PACKAGED["gemma-3-270m"],
        sha256="0" * 64,
        locate=lambda: contextlib.nullcontext(path),
    )
    monkeypatch.setenv("STORYPRIOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(conversion.PACKAGED, "gemma-3-270m", tampered)
    with pytest.raises(probes.ModelError, match=r"corrupt .*--force-reinstall"):
        probes.load("gemma-3-270m")


def test_a_conversion_that_cannot_write_english_is_refused(tmp_path, monkeypatch):
    """A mis-mapped tensor gives a model that loads and talks nonsense; perplexity notices."""
    import transformers

    tiny = tiny_model("llama")
    monkeypatch.setenv("STORYPRIOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: tiny.tokenizer
    )
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: tiny.model
    )
    gguf = tmp_path / "wrong.gguf"
    gguf.write_bytes(b"x")
    with pytest.raises(probes.ModelError, match="perplexity"):
        conversion._converted(gguf, "f" * 64, max_perplexity=40.0)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    ready = conversion._converted(gguf, "f" * 64, max_perplexity=None)
    assert (ready / "storyprior.json").is_file()
    assert probes.wrap(tiny.model, tiny.tokenizer).n_layers == 3


@pytest.mark.real
def test_the_packaged_model_reads_english_and_steers():
    import steering

    model = probes.load("gemma-3-270m")
    assert (model.n_layers, model.d_model) == (18, 640)
    assert conversion.perplexity_of(model.model, model.tokenizer, conversion.SANITY_TEXT) < 40
    acts = probes.capture(model, TEXTS, pool="mean")
    again = probes.capture(model, TEXTS, pool="mean", batch_tokens=1, padding_side="left")
    error = (acts.values - again.values).norm() / acts.values.norm()
    assert error < (5e-4 if model.dtype == torch.float32 else 1e-2)
    direction = probes.random_direction(
        probes.Direction.from_vectors(acts.values[0], acts.layers, norms=acts.norms, layer=9),
        seed=0,
    )
    plain = model.generate(TEXTS[:2], max_new_tokens=8)
    with steering.steer(model, steering.Add(direction, 0.5)):
        moved = model.generate(TEXTS[:2], max_new_tokens=8)
        assert moved == model.generate(TEXTS[:2], max_new_tokens=8, use_cache=False)
    assert moved != plain == model.generate(TEXTS[:2], max_new_tokens=8)
