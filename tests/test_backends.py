"""Three ways of reading one residual stream: they agree, leave nothing behind, and say what they cannot do."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

import probes
import steering
from probes import backends
from probes.backends import Hooks, NNsight, TransformerLens
from probes.backends.twin import twin_of
from probes.tokens import encode, pad
from tests.conftest import TEXTS, tiny_model

pytest.importorskip("transformer_lens")
pytest.importorskip("nnsight")

ARCHITECTURES = ("llama", "gemma3", "qwen3", "gpt2")
OTHERS = {
    "transformer_lens": TransformerLens(),
    "nnsight": NNsight(),
    "nnsight-local": NNsight(remote="local"),
}
other = pytest.mark.parametrize("backend", OTHERS.values(), ids=OTHERS)
each = pytest.mark.parametrize("backend", [Hooks(), *OTHERS.values()], ids=["hooks", *OTHERS])


def batch_of(model, side="right", texts=TEXTS):
    return pad(encode(model.tokenizer, texts), 0, side)


def read(model, backend, side="right", texts=TEXTS, layers=(0, 1, 2)):
    """Every token's residual stream `[token, layer, d_model]`, padding left out, in the model's dtype."""
    batch = batch_of(model, side, texts)
    seen = {}
    with torch.no_grad():
        backends.reader(backend, model)(batch, layers, lambda k, hidden: seen.update({k: hidden}))
    return torch.stack([seen[k][batch.attention_mask.bool()] for k in layers], dim=1)


def distance(left, right):
    return ((left - right).norm() / right.norm()).item()


def traces_of(model):
    """Whatever a library might leave on a model: modules, attributes, hooks, buffers, configuration."""
    tree = {
        name: (type(module), sorted(vars(module)), [len(v) for k, v in vars(module).items() if "_hooks" in k])
        for name, module in model.model.named_modules()
    }  # fmt: skip
    config = copy.deepcopy(vars(model.model.config))
    buffers = {name: value.clone() for name, value in model.model.named_buffers()}
    weights = {name: (id(p), p._version, p.requires_grad) for name, p in model.model.named_parameters()}  # fmt: skip
    tokenizer = (model.tokenizer.padding_side, str(model.tokenizer.special_tokens_map))
    ids = [id(module) for module in model.model.modules()]
    return tree, config, buffers, weights, tokenizer, ids


def check_unchanged(model, before):
    tree, config, buffers, *rest = traces_of(model)
    assert tree == before[0]
    assert config == before[1]
    assert list(buffers) == list(before[2])
    assert all(torch.equal(buffers[name], before[2][name]) for name in buffers)
    assert rest == list(before[3:])


def logits_of(model):
    with torch.no_grad():
        return model.model(**batch_of(model).to(model.device)).logits


@other
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_backends_agree_with_hooks_whatever_the_padding_and_the_batch(architecture, backend):
    model = tiny_model(architecture)
    for pool in ("last", "mean"):
        expected = probes.capture(model, TEXTS, pool=pool)
        for side, batch_tokens in (("left", 4096), ("right", 4096), ("left", 1)):
            acts = probes.capture(
                model, TEXTS, pool=pool, padding_side=side, batch_tokens=batch_tokens, backend=backend
            )  # fmt: skip
            torch.testing.assert_close(acts.values, expected.values, rtol=5e-4, atol=5e-5)
            torch.testing.assert_close(acts.norms, expected.norms, rtol=5e-4, atol=5e-5)
            assert (acts.layers, acts.pool, acts.model) == ((0, 1, 2), pool, expected.model)


@other
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_float64_rerun_shows_that_differences_are_rounding(architecture, backend, side):
    model = tiny_model(architecture, dtype=torch.float64)
    theirs = read(model, backend, side)
    assert theirs.dtype == torch.float64
    # TransformerLens computes its softmax in float32 like transformers' eager attention, where it is
    # rounded otherwise when the batch is wider; the other backends have no such step.
    in_float32 = backend.name == "transformer_lens" and architecture != "gpt2"
    if in_float32:
        model.model.set_attn_implementation("eager")
    alone = torch.cat([read(model, "hooks", texts=[text]) for text in TEXTS])
    assert (
        distance(torch.cat([read(model, backend, texts=[text]) for text in TEXTS]), alone) < 1e-12
    )
    assert distance(theirs, alone) < (2e-7 if in_float32 else 1e-9)


@other
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_bfloat16_is_as_near_to_float32_as_hooks_are(architecture, backend, side):
    narrow = tiny_model(architecture, dtype=torch.bfloat16)
    wide = read(tiny_model(architecture), "hooks")
    theirs = read(narrow, backend, side)
    assert theirs.dtype == torch.bfloat16
    noise = distance(read(narrow, "hooks", side).float(), wide)
    assert distance(theirs.float(), wide) < 1.1 * noise < 1.5e-2


@each
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_last_layer_is_the_last_block_s_output_and_not_what_the_final_norm_makes_of_it(
    architecture, backend
):
    model = tiny_model(architecture)
    batch = batch_of(model)
    with torch.no_grad():
        states = model.model(**batch.to(model.device), output_hidden_states=True).hidden_states
    real = batch.attention_mask.bool()
    theirs = read(model, backend)
    assert distance(theirs[:, 1], states[2][real]) < 1e-5
    assert distance(theirs[:, 2], states[-1][real]) > 0.1
    norm = model.model.model.norm if architecture == "llama" else model.model.transformer.ln_f
    assert distance(norm(theirs[:, 2]), states[-1][real]) < 1e-5


@each
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_left_on_the_model_after_success_or_an_error(architecture, backend):
    model = tiny_model(architecture)
    model.blocks[0].register_forward_hook(lambda *_: None)  # the user's own, which has to survive
    before, logits = traces_of(model), logits_of(model)

    def fail(layer, hidden):
        raise probes.DataError("on purpose")

    probes.capture(model, TEXTS, backend=backend)
    with pytest.raises(probes.DataError, match="on purpose"):
        backends.reader(backend, model)(batch_of(model), [1], fail)
    check_unchanged(model, before)
    assert torch.equal(logits_of(model), logits)


@each
def test_layers_above_the_deepest_are_not_computed(llama, backend):
    ran = []
    for k, block in enumerate(llama.blocks):
        block.register_forward_hook(lambda *_, k=k: ran.append(k))
    llama.model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    acts = probes.capture(llama, TEXTS, layers=[1, 0], backend=backend)
    assert (acts.layers, ran) == ((1, 0), [0, 1])
    torch.testing.assert_close(acts.at(0), probes.capture(llama, TEXTS).at(0), rtol=5e-4, atol=5e-5)
    ran.clear()
    probes.capture(llama, TEXTS, backend=backend)
    assert ran == [0, 1, 2]


@other
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steering_is_respected(architecture, backend):
    model = tiny_model(architecture)
    plain = probes.capture(model, TEXTS)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    direction = probes.Direction.from_vectors(vectors, (0, 1, 2))
    push = steering.Add(direction, strength=3.0, units="raw", layers=[0, 2])
    for pool in ("last", "mean"):
        plain = probes.capture(model, TEXTS, pool=pool)
        with steering.steer(model, push):
            expected = probes.capture(model, TEXTS, pool=pool)
            acts = probes.capture(model, TEXTS, pool=pool, padding_side="left", backend=backend)
        torch.testing.assert_close(acts.values, expected.values, rtol=5e-4, atol=5e-5)
        for layer in range(3):  # all are moved, the last by an edit of its own
            assert distance(acts.at(layer), plain.at(layer)) > 0.05


def test_hooks_inside_blocks_are_respected_or_refused(llama):
    plain = read(llama, "hooks")
    llama.blocks[1].self_attn.register_forward_hook(lambda m, a, o: (o[0] * 2, *o[1:]))
    edited = read(llama, "hooks")
    assert distance(edited, plain) > 0.01
    for remote in (False, "local"):
        torch.testing.assert_close(read(llama, NNsight(remote)), edited, rtol=5e-4, atol=5e-5)
    with pytest.raises(
        probes.ModelError,
        match=r'"transformer_lens" cannot respect hooks on modules inside the blocks '
        r'\(model.layers.1.self_attn has a forward hook\); use backend="hooks" or "nnsight"',
    ):
        probes.capture(llama, TEXTS, backend="transformer_lens")


def test_hooks_that_transformers_leaves_behind_are_no_reason_to_refuse(llama):
    with torch.no_grad():
        llama.model(
            **batch_of(llama).to(llama.device), output_hidden_states=True, output_attentions=True
        )
    expected = read(llama, "hooks")
    assert distance(read(llama, "transformer_lens"), expected) < 1e-5


@other
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3"])
def test_an_adapter_counts(architecture, backend):
    model = tiny_model(architecture)
    plain = read(model, "hooks")
    peft = get_peft_model(
        model.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    adapted = probes.wrap(peft, model.tokenizer)
    expected = read(adapted, "hooks")
    assert distance(expected, plain) > 0.01
    assert distance(read(adapted, backend), expected) < 1e-5


def test_a_twin_shares_the_weights_and_nothing_else(llama):
    twin = twin_of(llama)
    ours, theirs = dict(llama.model.named_parameters()), dict(twin.model.named_parameters())
    assert list(ours) == list(theirs)
    assert all(theirs[name] is parameter for name, parameter in ours.items())
    own = {id(module) for module in llama.model.modules()}
    assert not any(id(module) in own for module in twin.model.modules())
    assert twin.model.config is not llama.model.config
    for (name, buffer), (_, copied) in zip(
        llama.model.named_buffers(), twin.model.named_buffers(), strict=True
    ):
        assert buffer.data_ptr() != copied.data_ptr(), name
    assert twin.path == "model.layers"


@pytest.mark.real
def test_backends_agree_on_a_pretrained_model_and_leave_it_as_it_was():
    model = probes.load("gemma-3-270m", dtype="float32")
    expected = probes.capture(model, TEXTS[:3], pool="mean")
    before = traces_of(model)
    for backend in OTHERS.values():
        acts = probes.capture(
            model, TEXTS[:3], pool="mean", padding_side="left", backend=backend
        )  # fmt: skip
        for layer in range(model.n_layers):
            assert distance(acts.at(layer), expected.at(layer)) < 5e-4
        check_unchanged(model, before)
    # In bfloat16 they are as near to float32 as hooks are, and float64 shows differences to be rounding.
    layers = tuple(range(model.n_layers))
    wide = read(model, "hooks", "left", TEXTS[:3], layers)
    model.model.to(torch.bfloat16)
    noise = distance(read(model, "hooks", "left", TEXTS[:3], layers).float(), wide)
    for backend in OTHERS.values():
        theirs = read(model, backend, "left", TEXTS[:3], layers)
        assert distance(theirs.float(), wide) < 1.1 * noise < 1e-2
    model.model.double()
    for name, floor in (("nnsight", 2e-8), ("nnsight-local", 2e-8), ("transformer_lens", 2e-7)):
        if name == "transformer_lens":  # a softmax in float32, like transformers' eager one
            model.model.set_attn_implementation("eager")
        alone = torch.cat([read(model, "hooks", "left", [text], layers) for text in TEXTS[:3]])
        assert distance(read(model, OTHERS[name], "left", TEXTS[:3], layers), alone) < floor
