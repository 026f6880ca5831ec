"""Attribution: its sums, its containers, what it refuses."""

import pytest
import torch
import transformers

import probes
import steering
from probes.attribution import attribute
from probes.contributions import Attribution
from probes.logit_lens import logit_lens
from tests.conftest import ARCHITECTURES, IDS, LLAMA_LIKE, SMALL, TEXTS, tiny_model, tiny_tokenizer
from tests.mechanism import CLOSE, LABELS, direction_of, hooks_of, uneven


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contributions_sum_to_the_captured_projection(architecture, pool):
    model, direction = uneven(architecture), direction_of()
    acts = probes.capture(model, TEXTS, pool=pool)
    for layer in (2, 0):
        result = attribute(model, TEXTS, direction, pool=pool, layer=layer)
        assert result.heads.shape == (5, layer + 1, 4)
        torch.testing.assert_close(result.total, direction.project(acts)[:, layer], **CLOSE)
        torch.testing.assert_close(result.sum(), result.total, rtol=1e-4, atol=0)
    biased = architecture in ("gpt2", "gpt_neox", "opt", "phi")
    assert bool(result.bias.abs().min() > 1e-4) == biased
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    ("architecture", "pool"),
    [("llama", "mean"), ("gemma3", "mean"), ("gpt2", "last"), ("opt", [(0, 5)] * len(TEXTS))],
)
def test_padding_side_and_batches_make_no_difference(architecture, pool):
    model, direction = uneven(architecture), direction_of()
    one = attribute(model, TEXTS, direction, pool=pool, batch_tokens=1)
    for side in ("left", "right"):
        all_at_once = attribute(model, TEXTS, direction, pool=pool, padding_side=side)
        for name in ("heads", "mlps", "bias", "embedding", "total"):
            torch.testing.assert_close(getattr(one, name), getattr(all_at_once, name), **CLOSE)
    assert one.tokens == all_at_once.tokens


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "olmo2"])
def test_bfloat16_gives_the_contributions_of_float32_within_its_noise(architecture):
    direction = direction_of()
    wide = attribute(uneven(architecture), TEXTS, direction, pool="mean")
    narrow = attribute(uneven(architecture, torch.bfloat16), TEXTS, direction, pool="mean")
    for name in ("heads", "mlps", "embedding"):
        ours, theirs = getattr(wide, name), getattr(narrow, name)
        assert (ours - theirs).norm() < 3e-2 * ours.norm()


@pytest.mark.parametrize(
    "config",
    [
        transformers.Gemma2Config(**LLAMA_LIKE, head_dim=8, sliding_window=16),
        transformers.FalconConfig(**SMALL),  # sums the parts of a block in place
        transformers.CohereConfig(**LLAMA_LIKE, **IDS),
        transformers.GPTNeoConfig(
            vocab_size=400,
            hidden_size=32,
            num_layers=3,
            num_heads=4,
            attention_types=[[["global"], 3]],
        ),
    ],
    ids=["gemma2", "falcon", "cohere", "gpt_neo"],
)
def test_other_layouts_of_a_block_are_read_too(config):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape) * 0.1
    wrapped, direction = probes.wrap(model, tiny_tokenizer()), direction_of()
    with torch.inference_mode():
        result = attribute(wrapped, TEXTS, direction, pool="mean")
    torch.testing.assert_close(result.sum(), result.total, **CLOSE)
    assert min(result.heads.abs().amin(), result.mlps.abs().amin()) > 0


def test_the_input_of_the_first_block_is_the_embedding_with_positions():
    model, direction = uneven("gpt2"), direction_of()
    ids = model.tokenizer(TEXTS[0]).input_ids
    body = model.model.transformer
    with torch.no_grad():
        read = body.wte.weight[ids[-1]] + body.wpe.weight[len(ids) - 1]
    result = attribute(model, TEXTS[:1], direction)
    torch.testing.assert_close(result.embedding[0], read @ direction.at(2), **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt_neox"])
def test_steering_appears_as_edits_of_its_layer(architecture):
    model, direction = uneven(architecture), direction_of()
    plain = attribute(model, TEXTS, direction)
    with steering.steer(model, steering.Add(direction, strength=0.5)):
        last = attribute(model, TEXTS, direction)
        acts = probes.capture(model, TEXTS)
    torch.testing.assert_close(last.edits[:, 2], torch.full((5,), 2.5), **CLOSE)
    torch.testing.assert_close(last.heads, plain.heads, **CLOSE)
    torch.testing.assert_close(last.total, direction.project(acts)[:, 2], **CLOSE)
    with steering.steer(model, steering.Ablate(direction)):
        ablated = attribute(model, TEXTS, direction, layer=2)
    torch.testing.assert_close(ablated.sum(), ablated.total, **CLOSE)
    assert ablated.total.abs().max() < 1e-5
    assert ablated.edits[:, 0].abs().max() > 1e-3
    assert plain.edits.abs().max() == 0


def test_a_hook_inside_a_block_that_cannot_be_accounted_for_is_refused(llama):
    handle = llama.blocks[1].self_attn.register_forward_hook(lambda m, a, o: (o[0] * 1.5, *o[1:]))
    before = hooks_of(llama)
    with pytest.raises(probes.ModelError, match=r"block 1 .* do not add up"):
        attribute(llama, TEXTS, direction_of())
    assert hooks_of(llama) == before
    attribute(llama, TEXTS, direction_of(), layer=0)
    handle.remove()


def test_something_added_between_blocks_is_refused(llama):
    llama.blocks[1].register_forward_pre_hook(lambda m, args: (args[0] + 0.5, *args[1:]))
    with pytest.raises(probes.ModelError, match="between its blocks"):
        attribute(llama, TEXTS, direction_of())


def test_a_stream_that_is_not_finite_is_refused(llama):
    with torch.no_grad():
        llama.blocks[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(probes.ModelError, match=r"block 1 .*not finite"):
        attribute(llama, TEXTS, direction_of())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.GraniteConfig(**LLAMA_LIKE, residual_multiplier=0.3), "do not add up"),
        (transformers.BloomConfig(vocab_size=400, hidden_size=32, n_layer=3, n_head=4), "do not add up"),
        (transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=3), "attention heads"),
        (
            transformers.OPTConfig(
                **SMALL, ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=32,
                do_layer_norm_before=False,
            ),
            "do not add up",
        ),
    ],
    ids=["granite", "bloom", "mamba", "opt-350m"],
)  # fmt: skip
def test_architectures_that_write_in_another_way_are_refused(config, message):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape) * 0.1
    wrapped = probes.wrap(model, tiny_tokenizer())
    with pytest.raises(probes.ModelError, match=message):
        attribute(wrapped, TEXTS, direction_of())
    assert hooks_of(wrapped) == 0


def test_a_difference_of_classes_is_that_of_the_totals(llama):
    result = attribute(llama, TEXTS, direction_of(), pool="mean")
    contrast = result.difference(LABELS)
    ones = result.total[[0, 2]].mean() - result.total[[1, 3, 4]].mean()
    torch.testing.assert_close(contrast.total, ones, **CLOSE)
    summed = sum(value for _, value in contrast.rows())
    assert summed == pytest.approx(float(ones), abs=1e-5)
    mlp = result.mlps[[0, 2], 1].mean() - result.mlps[[1, 3, 4], 1].mean()
    assert dict(contrast.rows())["L1.MLP"] == pytest.approx(float(mlp), abs=1e-6)
    text = str(contrast)
    assert "⟨h, villain⟩ after block 2, mean of 2 texts with minus 3 without" in text
    assert f"{float(ones):+.2f}"[:4] in text
    assert "4 others" in text
    assert [abs(v) for _, v in contrast.rows()] == sorted((abs(v) for _, v in contrast.rows()))[
        ::-1
    ]
    assert str(result) == str(result.mean())


def test_checkpoints_are_compared_component_by_component():
    first, second = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        second.blocks[2].mlp.down_proj.weight *= 1.5
    a, b = (attribute(model, TEXTS, direction_of()) for model in (first, second))
    change = b - a
    assert isinstance(change, Attribution)
    torch.testing.assert_close(change.mlps[:, 2], a.mlps[:, 2] * 0.5, **CLOSE)
    torch.testing.assert_close(change.total, change.mlps[:, 2], **CLOSE)
    assert change.heads.abs().max() == 0
    assert change.mean().rows()[0][0] == "L2.MLP"
    with pytest.raises(probes.DataError, match="different texts"):
        a - attribute(second, TEXTS[::-1], direction_of())
    with pytest.raises(probes.DataError, match="differ in layer, pooling"):
        a - attribute(second, TEXTS, direction_of(), layer=1)
    with pytest.raises(probes.DataError, match="differ in layer, pooling"):
        a - attribute(second, TEXTS, direction_of(), pool="mean")
    with pytest.raises(TypeError):
        a - 1


def test_a_difference_of_checkpoints_says_that_it_is_one():
    first, second = tiny_model("llama"), tiny_model("llama", seed=1)
    a, b = (attribute(model, TEXTS, direction_of()) for model in (first, second))
    assert "mean of 5 texts, one model minus the other" in str(b - a)
    contrast = (b - a).difference(LABELS)
    torch.testing.assert_close(
        contrast.mlps, b.difference(LABELS).mlps - a.difference(LABELS).mlps, **CLOSE
    )
    assert contrast.what.endswith("3 without, one model minus the other")
    assert contrast.to_json()["model"] == "llama-1 - llama-0"
    assert a.mean().what == "mean of 5 texts"


def test_other_ranges_of_the_same_texts_are_not_compared(llama):
    front, back = [(0, 5)] * len(TEXTS), [(2, 8)] * len(TEXTS)
    a = attribute(llama, TEXTS, direction_of(), pool=front)
    assert a.pool == "spans"
    assert (a - attribute(llama, TEXTS, direction_of(), pool=front)).total.abs().max() == 0
    with pytest.raises(probes.DataError, match="texts or ranges"):
        a - attribute(llama, TEXTS, direction_of(), pool=back)
    marked = [f"{text} # {text}" for text in TEXTS]
    after = attribute(llama, marked, direction_of(), pool=probes.After("#"))
    assert after.pool == "after:#"


def test_weights_that_are_not_in_memory_are_named():
    from accelerate import cpu_offload

    for start, match in ((None, "tiny-gemma3 has no weights"), (1, "Gemma3RMSNorm are not in")):
        model = uneven("gemma3")
        part = model.model if start is None else model.blocks[start]
        cpu_offload(part, execution_device=torch.device("cpu"))
        with pytest.raises(probes.ModelError, match=match):
            attribute(model, TEXTS, direction_of())
    for part, match in (
        ("lm_head", "unembedding of .* not in memory"),
        ("model.norm", "not in memory"),
    ):
        model = tiny_model("llama")
        cpu_offload(model.model.get_submodule(part), execution_device=torch.device("cpu"))
        with pytest.raises(probes.ModelError, match=match):
            logit_lens(model, direction_of())


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 0], "one 0 or 1"), ([1, 0, 2, 0, 1], "one 0 or 1"), ([1] * 5, "both classes")],
)
def test_unusable_labels_are_named(llama, labels, message):
    result = attribute(llama, TEXTS, direction_of())
    with pytest.raises(probes.DataError, match=message):
        result.difference(labels)


@pytest.mark.parametrize(
    ("direction", "options", "error", "message"),
    [
        (direction_of(16), {}, probes.DataError, "width 16 but .* has 32"),
        (direction_of(layers=4), {}, probes.LayerError, "layer 3 is out of range"),
        (direction_of(), {"layer": -1}, probes.LayerError, "layer -1 is out of range"),
        (direction_of(layer=None), {}, probes.LayerError, "no selected layer"),
        (direction_of(layers=2), {"layer": 2}, probes.LayerError, "has no layer 2"),
    ],
)
def test_a_direction_that_does_not_fit_is_named(llama, direction, options, error, message):
    with pytest.raises(error, match=message):
        attribute(llama, TEXTS, direction, **options)
    with pytest.raises(error, match=message):
        logit_lens(llama, direction, **options)


def test_texts_and_pooling_are_checked_as_in_capture(llama):
    for texts, options in (([], {}), ("one", {}), (TEXTS, {"pool": "max"}), ([""], {})):
        with pytest.raises(probes.DataError):
            attribute(llama, texts, direction_of(), **options)


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_contributions_sum_in_pretrained_models(name):
    texts = [TEXTS[0], TEXTS[3], TEXTS[4]]
    model = probes.load(name, dtype="float32", device="cpu")
    direction = direction_of(model.d_model, model.n_layers)
    for pool in ("last", "mean"):
        projected = direction.project(probes.capture(model, texts, pool=pool))[:, -1]
        result = attribute(model, texts, direction, pool=pool)
        torch.testing.assert_close(result.total, projected, rtol=1e-4, atol=0)
        torch.testing.assert_close(result.sum(), result.total, rtol=1e-4, atol=0)
        assert result.heads.abs().sum() > result.total.abs().sum() * 0.01
    lens = logit_lens(model, direction, top=5)
    assert len(lens.values) == len(model.tokenizer)
    assert lens.changes[0] > 0 > lens.changes[5]
    model.model.to(torch.bfloat16)
    half = attribute(model, texts, direction, pool="mean")
    assert (half.mlps - result.mlps).norm() < 0.1 * result.mlps.norm()
