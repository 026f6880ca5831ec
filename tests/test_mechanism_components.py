"""Each component of an attribution: against ablation by hand, plants, TransformerLens, adapters."""

import pytest
import torch
import transformers

import probes
from probes.attribution import attribute
from probes.writers import Grid
from tests.conftest import ARCHITECTURES, TEXTS, tiny_tokenizer
from tests.mechanism import CLOSE, LABELS, direction_of, uneven


def output_projection(model: probes.LanguageModel, layer: int) -> torch.nn.Module:
    names = ("o_proj", "c_proj", "out_proj", "dense")
    found = [
        module
        for name, module in model.blocks[layer].named_modules()
        if name.rpartition(".")[2] in names and "attn" in name.replace("attention", "attn")
    ]
    assert len(found) == 1
    return found[0]


def without_head(model, text, layer, head, width):
    """The residual after a block when one head's values are zeroed, all that reads them kept as it was."""
    block, clean, outputs = model.blocks[layer], {}, {}
    mlp = getattr(block, "mlp", None) or block.fc2
    # Elsewhere a norm of this name comes before the MLP, whose output is kept anyway.
    behind = ("post_attention_layernorm", "post_feedforward_layernorm")
    has_norms_behind = type(block).__name__.startswith(("Gemma3", "Olmo2"))
    norms = [getattr(block, name) for name in behind] if has_norms_behind else []
    kept = [mlp, *norms]
    ids = model.tokenizer(text, return_tensors="pt").input_ids

    def remember(module, args, output):
        clean[module] = (args[0].detach(), output.detach())

    def replay(module, args, output):
        given, result = clean[module]
        # A root-mean-square norm with its scale frozen multiplies every coordinate as before.
        return result if module is mlp else args[0] * (result / given)

    def ablate(module, args):
        values = args[0].clone()
        values[..., head * width : (head + 1) * width] = 0
        return (values,)

    def run(name, *hooks):
        handles = [*hooks, block.register_forward_hook(lambda m, a, o: outputs.update({name: o}))]
        with torch.no_grad():
            model.model(input_ids=ids)
        for handle in handles:
            handle.remove()
        return (outputs[name][0] if isinstance(outputs[name], tuple) else outputs[name])[0]

    whole = run("whole", *[module.register_forward_hook(remember) for module in kept])
    projection = output_projection(model, layer)
    ablated = run(
        "ablated",
        projection.register_forward_pre_hook(ablate),
        *[module.register_forward_hook(replay) for module in kept],
    )
    return whole, ablated


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize(
    "architecture", ["llama", "gemma3", "qwen3", "gpt2", "gpt_neox", "opt", "olmo2"]
)
def test_ablating_a_head_takes_away_its_contribution(architecture, layer):
    model, direction = uneven(architecture), direction_of()
    result = attribute(model, TEXTS[1:2], direction, pool="mean", layer=layer)
    for head in (0, 3):
        whole, ablated = without_head(model, TEXTS[1], layer, head, width=8)
        lost = ((whole - ablated) @ direction.at(layer))[1:].mean()
        assert lost.abs() > 1e-4
        torch.testing.assert_close(result.heads[0, layer, head], lost, rtol=1e-3, atol=1e-5)


def test_a_planted_head_is_the_only_writer(llama):
    direction = direction_of()
    with torch.no_grad():
        for block in llama.blocks:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        # Head 2 of block 1 writes its values' sum along the direction and nowhere else.
        llama.blocks[1].self_attn.o_proj.weight[:, 16:24] = direction.at(2)[:, None]
    result = attribute(llama, TEXTS, direction, pool="mean")
    others = result.heads.clone()
    others[:, 1, 2] = 0
    assert others.abs().max() == 0
    assert result.mlps.abs().max() == 0
    assert result.heads[:, 1, 2].abs().min() > 1e-3
    written = result.total - result.embedding
    torch.testing.assert_close(result.heads[:, 1, 2], written, **CLOSE)
    assert result.difference(LABELS).rows()[0][0] in ("L1.H2", "embedding")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_components_are_those_of_transformer_lens(architecture, tmp_path):
    bridge_module = pytest.importorskip("transformer_lens.model_bridge")
    direction = direction_of()
    unit = direction.at(2)
    result = attribute(uneven(architecture), TEXTS[1:2], direction)
    model = uneven(architecture)  # the bridge rebuilds the model that it is given
    model.model.config.architectures = [type(model.model).__name__]
    model.model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bridge = bridge_module.TransformerBridge.boot_transformers(
        str(tmp_path), hf_model=model.model, tokenizer=tokenizer
    )
    ids = tokenizer(TEXTS[1], return_tensors="pt").input_ids
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids)
    torch.testing.assert_close(
        result.embedding[0], cache["blocks.0.hook_in"][0, -1] @ unit, **CLOSE
    )
    for layer in range(3):
        mlp = cache[f"blocks.{layer}.hook_mlp_out"][0, -1] @ unit
        torch.testing.assert_close(result.mlps[0, layer], mlp, **CLOSE)
        mixed = cache[f"blocks.{layer}.attn.hook_z"][0, -1]
        written = torch.einsum("he,hed->hd", mixed, bridge.blocks[layer].attn.W_O)
        if f"blocks.{layer}.ln1_post.hook_in" in cache:
            given = cache[f"blocks.{layer}.ln1_post.hook_in"][0, -1]
            written = written * (cache[f"blocks.{layer}.ln1_post.hook_out"][0, -1] / given)
        torch.testing.assert_close(result.heads[0, layer], written @ unit, rtol=1e-3, atol=1e-4)


def test_an_adapter_on_the_output_projection_counts(llama):
    from peft import LoraConfig, get_peft_model

    direction = direction_of()
    before = attribute(llama, TEXTS, direction, layer=0)
    config = LoraConfig(target_modules=["o_proj"], r=2, init_lora_weights=False)
    adapted = probes.wrap(get_peft_model(llama.model, config), llama.tokenizer)
    after = attribute(adapted, TEXTS, direction, layer=0)
    torch.testing.assert_close(after.sum(), after.total, **CLOSE)
    assert (after.heads - before.heads).abs().max() > 1e-2
    merged = adapted.model
    update = llama.blocks[0].self_attn.o_proj.get_delta_weight("default").detach()
    layer = merged.model.layers[0].self_attn
    layer.o_proj = layer.o_proj.base_layer
    with torch.no_grad():
        layer.o_proj.weight += update
    again = attribute(probes.wrap(merged, llama.tokenizer), TEXTS, direction, layer=0)
    torch.testing.assert_close(after.heads, again.heads, **CLOSE)


def test_a_layer_norm_behind_attention_is_centred_and_its_shift_is_a_constant():
    model, direction = uneven("gemma3"), direction_of()
    norm = torch.nn.LayerNorm(32)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 32))
        norm.bias.copy_(torch.linspace(-1, 1, 32))
    model.blocks[0].post_attention_layernorm = norm
    result = attribute(model, TEXTS, direction, layer=0)
    torch.testing.assert_close(result.sum(), result.total, **CLOSE)
    shift = (norm.bias.detach() @ direction.at(0)).expand(5)
    torch.testing.assert_close(result.bias[:, 0], shift, **CLOSE)


def test_whatever_padding_holds_does_not_enter_a_mean():
    values = torch.tensor([[1.0, 3.0, float("nan")], [float("inf"), 2.0, 4.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    grid = Grid(torch.ones(1), mask * 0.5, mask)
    assert grid.pool(values).tolist() == [2, 3]
    assert grid.pool(values[..., None].expand(2, 3, 4)).tolist() == [[2] * 4, [3] * 4]
