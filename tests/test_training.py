"""Training: equal blocks, documents kept apart, EOS learned, resumed exactly, the base given back."""

import json
import shutil

import pytest
import torch

import probes
from experiments.config import Training
from experiments.training import token_blocks, train_adapter
from probes.adapters import attached
from tests.conftest import TEXTS, tiny_model, tiny_tokenizer

SETTINGS = Training(
    steps=4,
    blocks_per_step=2,
    block_tokens=48,
    learning_rate=1e-2,
    lora_rank=4,
    lora_alpha=8,
    warmup_steps=0,
    save_steps=2,
)
DOCUMENTS = [f"{text} {k}" for k in range(60) for text in TEXTS]


def test_blocks_are_full_and_documents_end_with_eos():
    blocks = token_blocks(tiny_tokenizer(), DOCUMENTS, 8, 48)
    assert [len(row["input_ids"]) for row in blocks.rows] == [48] * 8
    assert all(sum(row["seq_lengths"]) == 48 for row in blocks.rows)
    joined = [token for row in blocks.rows for token in row["input_ids"]]
    assert joined.count(2) in (blocks.documents, blocks.documents - 1)
    assert 0 < blocks.split <= 8
    longer = token_blocks(tiny_tokenizer(), ["word " * 300], 3, 48)
    assert (longer.documents, longer.split) == (1, 1)


def test_too_few_documents_are_refused_with_numbers():
    with pytest.raises(
        probes.DataError, match=r"2 documents give \d+ tokens; the training needs 384"
    ):
        token_blocks(tiny_tokenizer(), TEXTS[:2], 8, 48)


def test_eos_is_learned_even_where_it_is_the_padding_token():
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = token_blocks(tiny_tokenizer(), DOCUMENTS, 1, 48).rows
    batch = DataCollatorForLanguageModeling(pad_token_id=2, padding_free=True)(
        [dict(row) for row in rows]
    )
    ends = (batch["input_ids"] == 2) & (batch["position_ids"] > 0)
    assert ends.any()
    assert (batch["labels"][ends] == 2).all()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2", "qwen3"])
def test_documents_of_a_block_do_not_see_each_other(architecture):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = tiny_model(architecture)
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)

    def second_half(first):
        row = {"input_ids": first + list(range(50, 70)), "seq_lengths": [len(first), 20]}
        batch = collate([row])
        with torch.no_grad():
            logits = model.model(
                input_ids=batch["input_ids"],
                position_ids=batch["position_ids"],
                use_cache=False,  # as in training: with a cache the packing is not noticed
            ).logits
        return logits[0, len(first) :]

    one, other = second_half(list(range(10, 30))), second_half(list(range(80, 100)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_training_writes_an_adapter_and_gives_the_base_back(tmp_path):
    model = tiny_model("gemma3")
    before = probes.capture(model, TEXTS).values
    state = {name: parameter.clone() for name, parameter in model.model.named_parameters()}
    steps = []
    facts = train_adapter(
        model, DOCUMENTS, tmp_path / "a", SETTINGS, seed=0, on_step=lambda: steps.append(1)
    )
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "training.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert facts["tokens"] == 4 * 2 * 48
    assert facts["loss_last"] < facts["loss_first"]
    assert len(steps) == 4
    assert json.loads((tmp_path / "a" / "training.json").read_text()) == facts
    assert torch.equal(before, probes.capture(model, TEXTS).values)
    assert all(
        torch.equal(state[name], p) and p.requires_grad
        for name, p in model.model.named_parameters()
    )
    assert "forward" not in vars(model.model)
    with attached(model, tmp_path / "a") as tuned:
        assert not torch.allclose(before, probes.capture(tuned, TEXTS).values)


def test_seeds_differ_and_the_same_seed_repeats(tmp_path):
    weights = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_adapter(tiny_model("llama"), DOCUMENTS, tmp_path / name, SETTINGS, seed=seed)
        weights[name] = (tmp_path / name / "adapter_model.safetensors").read_bytes()
    assert weights["a"] == weights["b"] != weights["c"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "opt"])
def test_the_loss_on_a_cpu_is_that_of_trl(tmp_path, monkeypatch, architecture):
    import trl

    from experiments import training

    ours = train_adapter(tiny_model(architecture), DOCUMENTS, tmp_path / "a", SETTINGS, seed=0)
    monkeypatch.setattr(training, "_trainer_class", lambda device: trl.SFTTrainer)
    theirs = train_adapter(tiny_model(architecture), DOCUMENTS, tmp_path / "b", SETTINGS, seed=0)
    assert ours["loss_first"] == pytest.approx(theirs["loss_first"], rel=1e-4)
    assert ours["loss_last"] == pytest.approx(theirs["loss_last"], rel=1e-2)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("damage", ["none", "newest checkpoint cut off"])
def test_interrupted_training_ends_with_the_same_weights(tmp_path, damage):
    train_adapter(tiny_model("llama"), DOCUMENTS, tmp_path / "whole", SETTINGS, seed=0)
    seen = []

    def kill():
        seen.append(1)
        if len(seen) == 4:
            raise Killed

    settings = SETTINGS.model_copy(update={"save_steps": 1})
    with pytest.raises(Killed):
        train_adapter(
            tiny_model("llama"), DOCUMENTS, tmp_path / "cut", settings, seed=0, on_step=kill
        )
    scratch = tmp_path / ".cut.training"
    assert not (tmp_path / "cut").exists()
    assert (scratch / "checkpoint-3").exists()
    if damage != "none":
        (scratch / "checkpoint-3" / "trainer_state.json").write_text("{")
    resumed = []
    train_adapter(
        tiny_model("llama"),
        DOCUMENTS,
        tmp_path / "cut",
        settings,
        seed=0,
        on_step=lambda: resumed.append(1),
    )
    assert len(resumed) == (1 if damage == "none" else 2)
    whole, cut = (
        (tmp_path / n / "adapter_model.safetensors").read_bytes() for n in ("whole", "cut")
    )
    assert whole == cut
    facts = [json.loads((tmp_path / n / "training.json").read_text()) for n in ("whole", "cut")]
    assert facts[0] == facts[1]
    assert not scratch.exists()


def test_a_checkpoint_that_does_not_differ_from_its_base_is_an_error(tmp_path):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-45})
    with pytest.raises(probes.ModelError, match="changes nothing"):
        train_adapter(tiny_model("llama"), DOCUMENTS, tmp_path / "a", settings, seed=0)
    assert not (tmp_path / "a").exists()
    shutil.rmtree(tmp_path)
