"""What backends refuse and what their errors say; measuring weights that only a server has."""

import copy
import subprocess
import sys

import pytest
import torch

import probes
from probes import backends
from probes.backends import Hooks, NNsight
from tests.conftest import TEXTS, tiny_model
from tests.test_backends import batch_of, distance, each, other, read


@other
def test_a_model_that_is_split_over_devices_is_refused(llama, backend):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(llama.blocks[0], AlignDevicesHook())
    with pytest.raises(
        probes.ModelError, match=r'spread over several devices .* use backend="hooks"$'
    ):
        probes.capture(llama, TEXTS, backend=backend)
    probes.capture(llama, TEXTS)


def test_a_model_that_is_wholly_offloaded_is_measured_by_hooks_alone(llama):
    from accelerate import cpu_offload

    expected = probes.capture(llama, TEXTS)
    cpu_offload(llama.model, execution_device=torch.device("cpu"))
    assert next(llama.model.parameters()).is_meta
    assert llama.device == torch.device("cpu")
    torch.testing.assert_close(probes.capture(llama, TEXTS).values, expected.values)
    with pytest.raises(probes.ModelError, match=r'placed by accelerate.* use backend="hooks"$'):
        probes.capture(llama, TEXTS, backend="nnsight")


@each
def test_running_out_of_memory_is_passed_on_as_it_is(llama, backend):
    def no_room(layer, hidden):
        raise torch.OutOfMemoryError("CUDA out of memory")

    def no_ram(layer, hidden):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    with pytest.raises(torch.OutOfMemoryError):
        backends.reader(backend, llama)(batch_of(llama), [0], no_room)
    with pytest.raises(RuntimeError, match="can't allocate"):
        backends.reader(backend, llama)(batch_of(llama), [0], no_ram)


def test_an_architecture_that_a_library_does_not_know_is_named(llama):
    class OddForCausalLM(type(llama.model)):
        pass

    llama.model.__class__ = OddForCausalLM
    with pytest.raises(
        probes.ModelError, match=r'"transformer_lens" failed to wrap .*backend="hooks"'
    ):
        probes.capture(llama, TEXTS, backend="transformer_lens")
    assert distance(read(llama, "nnsight"), read(llama, "hooks")) == 0


def test_a_model_that_cannot_be_copied_is_named(llama):
    llama.model.odd = (line for line in ())
    with pytest.raises(probes.ModelError, match="cannot be copied"):
        probes.capture(llama, TEXTS, backend="nnsight")


@pytest.mark.parametrize("module", ["transformer_lens.model_bridge.sources", "nnsight"])
def test_a_missing_library_says_how_to_install_it(llama, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(probes.ModelError, match=r"pip install storyprior\[backends\]"):
        probes.capture(llama, TEXTS, backend=module.split(".")[0])


@pytest.mark.parametrize("wrong", ["hook", "", None, 3, NNsight, object()])
def test_an_unknown_backend_is_named(llama, wrong):
    with pytest.raises(probes.DataError, match=r'is not one of "hooks", "transformer_lens"'):
        probes.capture(llama, TEXTS, backend=wrong)


def test_a_backend_of_the_user_s_own_is_checked_like_ours(llama):
    class Shifted:
        name = "shifted"
        capabilities = frozenset({"local"})

        def reader(self, model):
            inner = Hooks().reader(model)
            return lambda batch, layers, visit: inner(batch, layers, lambda k, h: visit(k, h + 1))

    acts = probes.capture(llama, TEXTS, backend=Shifted())
    torch.testing.assert_close(acts.values, probes.capture(llama, TEXTS).values + 1)
    llama.blocks[0].register_forward_hook(lambda *_: None)
    with pytest.raises(
        probes.ModelError, match=r'"shifted" cannot respect hooks on the embeddings'
    ):
        probes.capture(llama, TEXTS, backend=Shifted())


def test_a_backend_that_forgets_a_layer_is_found_out(llama):
    class Forgetful(Hooks):
        def reader(self, model):
            inner = Hooks().reader(model)
            return lambda batch, layers, visit: inner(batch, layers[:1], visit)

    with pytest.raises(probes.ModelError, match=r"did not report layers \[1, 2\]"):
        probes.capture(llama, TEXTS, backend=Forgetful())


def test_importing_probes_imports_neither_library():
    code = "import sys, probes; sys.exit(any(m in sys.modules for m in ('nnsight', 'transformer_lens')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_rehearsal_of_a_remote_trace_leaves_the_import_path_alone(llama, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    before, modules = list(sys.path), set(sys.modules)
    probes.capture(llama, TEXTS, backend=NNsight(remote="local"))
    assert sys.path == before
    assert modules <= set(sys.modules)


@pytest.mark.parametrize("remote", [False, "local"])
def test_a_tokenizer_stays_without_a_padding_token(llama, remote):
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.pad_token = None
    model = probes.wrap(llama.model, tokenizer)
    tokenizer.padding_side = "right"
    backends.reader(NNsight(remote), model)(batch_of(llama), [0], lambda layer, hidden: None)
    assert tokenizer.pad_token is None
    assert tokenizer.padding_side == "right"
    assert "_persistent_id" not in vars(tokenizer)


@pytest.fixture
def repository(tmp_path):
    """A folder as a hub repository has it, and the model whose weights a server would hold."""
    model = tiny_model("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    return str(tmp_path), model


def test_a_skeleton_has_no_weights_and_only_a_server_can_measure_it(repository):
    skeleton = backends.skeleton(repository[0])
    assert (skeleton.n_layers, skeleton.d_model, skeleton.device.type) == (3, 32, "meta")
    for backend in ("hooks", "transformer_lens", "nnsight", NNsight(remote="local")):
        with pytest.raises(
            probes.ModelError, match=r"not loaded in this process .*NNsight\(remote=True\)"
        ):
            probes.capture(skeleton, TEXTS, backend=backend)


def test_a_server_does_not_measure_weights_that_are_loaded_here(repository):
    with pytest.raises(
        probes.ModelError, match=r"cannot measure the weights that are loaded in this"
    ):
        probes.capture(repository[1], TEXTS, backend=NNsight(remote=True))


def test_a_server_gives_what_hooks_give_on_its_weights(repository, monkeypatch):
    """The transport is replaced: the request is read and run as a server does, its reply is put back."""
    from nnsight import TransformersModel
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.schema.request import RequestModel

    ref, model = repository
    served = TransformersModel(ref, task="text-generation", dispatch=True)
    sizes = []

    def request(self, envelope, tracer):
        blob = RequestModel.serialize(tracer, compress=False)
        sizes.append(len(blob))
        restored = RequestModel.deserialize(blob, served._remoteable_persistent_objects())
        restored.execute(restored.info.code)
        return {"outputs": [value.cpu() for value in restored.info.frame.f_locals["outputs"]]}

    monkeypatch.setattr(TransformersModel, "to_model_key", lambda self: f"tests:{self.repo_id}")
    monkeypatch.setattr(RemoteBackend, "request", request)
    skeleton = backends.skeleton(ref)
    expected = probes.capture(model, TEXTS, layers=[2, 0], pool="mean")
    for side in ("left", "right"):
        acts = probes.capture(
            skeleton, TEXTS, layers=[2, 0], pool="mean", padding_side=side, backend=NNsight(remote=True)
        )  # fmt: skip
        torch.testing.assert_close(acts.values, expected.values, rtol=5e-4, atol=5e-5)
    assert acts.layers == (2, 0)
    assert max(sizes) < 100_000  # the request holds token ids and source, not weights
    assert acts.model == skeleton.identity != expected.model


def test_a_server_that_does_not_answer_is_an_error_with_its_name(repository, monkeypatch):
    from nnsight import TransformersModel

    monkeypatch.setattr(TransformersModel, "to_model_key", lambda self: f"tests:{self.repo_id}")
    with pytest.raises(probes.ModelError, match='"nnsight" failed to run'):
        probes.capture(
            backends.skeleton(repository[0]), TEXTS, backend=NNsight(remote="http://127.0.0.1:9")
        )


def test_a_skeleton_of_nothing_is_an_error(tmp_path):
    with pytest.raises(probes.ModelError, match="no configuration and tokenizer"):
        backends.skeleton(str(tmp_path))
