"""One checkpoint: an arm's documents in equal token blocks, LoRA by PEFT, the loop by TRL."""

import math
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from experiments.config import Training
from probes import ArtefactError, DataError, LanguageModel, ModelError
from probes.adapters import changes_anything, strip, unchanged
from probes.files import read_json, write_json
from probes.tokens import encode


@dataclass(frozen=True, slots=True)
class Blocks:
    """Exactly `count` blocks of exactly `block_tokens` tokens.

    Attributes:
        rows: per block its token ids and the lengths of the documents (or parts) in it.
        documents: documents used, the last one perhaps in part.
        split: documents that a block's end cuts in two; their second part starts afresh.
    """

    rows: list[dict[str, list[int]]]
    documents: int
    split: int


def token_blocks(tokenizer: Any, documents: Iterable[str], count: int, block_tokens: int) -> Blocks:
    """Fill blocks with whole documents, each ended by EOS, until there are `count` full ones.

    Every arm gets the same number of tokens and steps in this way, whatever its documents' lengths.

    Raises:
        DataError: the documents are too few, or the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no EOS token, so documents cannot be told apart")
    rows: list[dict[str, list[int]]] = [{"input_ids": [], "seq_lengths": []}]
    used = split = 0
    for text in documents:
        ids = [*encode(tokenizer, [text])[0].ids, tokenizer.eos_token_id]
        used += 1
        parts = 0
        while ids:
            if len(rows[-1]["input_ids"]) == block_tokens:
                if len(rows) == count:
                    break
                rows.append({"input_ids": [], "seq_lengths": []})
            room = block_tokens - len(rows[-1]["input_ids"])
            rows[-1]["input_ids"] += ids[:room]
            rows[-1]["seq_lengths"].append(len(ids[:room]))
            ids, parts = ids[room:], parts + 1
        split += parts > 1 or bool(ids)
        if len(rows) == count and len(rows[-1]["input_ids"]) == block_tokens:
            return Blocks(rows, used, split)
    have = sum(len(row["input_ids"]) for row in rows)
    raise DataError(
        f"{used} documents give {have} tokens; the training needs {count * block_tokens}: raise the number of "
        "documents or lower training.steps"
    )


def train_adapter(
    model: LanguageModel,
    documents: Iterable[str],
    out: Path,
    settings: Training,
    *,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train one LoRA adapter and write it to the folder `out`, complete or not at all.

    Progress is saved beside `out` every `save_steps` steps; a call after a crash goes on from there
    and ends with the same weights. `model` itself is given back as it was. `on_step` is called after
    every optimiser step.

    Returns:
        Steps, tokens, documents used and split, first and last loss.

    Raises:
        ModelError: the trained adapter changes nothing, or the loss is not finite.
        DataError: the documents are too few.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig

    scratch = out.with_name(f".{out.name}.training")
    if out.exists():  # done before, but the call that did it was killed before it could say so
        shutil.rmtree(scratch, ignore_errors=True)
        return read_json(out / "training.json")
    blocks = token_blocks(
        model.tokenizer, documents, settings.steps * settings.blocks_per_step, settings.block_tokens
    )
    arguments = SFTConfig(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=settings.blocks_per_step,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        max_length=None,
        padding_free=True,  # documents of a block stay apart through their position ids
        gradient_checkpointing=False,
        bf16=False,  # the model is in the dtype it was loaded in; adapters train in float32
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="steps",
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
    )
    # One device: data parallelism over all visible ones would multiply the tokens of a step.
    arguments._n_gpu = min(1, arguments.n_gpu)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with unchanged(model.model), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # libraries speaking to each other
        torch.manual_seed(seed)
        try:
            trainer = _trainer_class(model.device)(
                model=model.model,
                args=arguments,
                train_dataset=Dataset.from_list(blocks.rows),
                processing_class=model.tokenizer,
                peft_config=lora,
                callbacks=[_after_each_step(on_step)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=_last_complete_checkpoint(scratch))
            trainer.save_model(str(scratch / "finished"))
        except (SafetensorError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            raise ArtefactError(
                f"cannot write {scratch}: {error}; free some space and run the command again"
            ) from error
        finally:
            strip(model.model)
            vars(model.model).pop("forward", None)  # TRL's fused head, an attribute of the instance
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(map(math.isfinite, losses)):
        raise ModelError(
            f"training of {out} diverged (loss {losses[-1]}); lower training.learning_rate"
        )
    finished = scratch / "finished"
    _check_it_learned(finished)
    facts = {
        "steps": settings.steps,
        "tokens": settings.steps * settings.blocks_per_step * settings.block_tokens,
        "documents": blocks.documents,
        "split": blocks.split,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }
    _publish(finished, out, facts)
    shutil.rmtree(scratch, ignore_errors=True)
    return facts


def _trainer_class(device: torch.device) -> type:
    """TRL's trainer; on a CPU with the model's own loss.

    TRL's fused head computes the logits again in the backward pass to save memory, which a CPU has:
    with a vocabulary of 262k that is a third of a training step.
    """
    from trl import SFTTrainer

    class WholeLogitsTrainer(SFTTrainer):
        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, Any],
            *args: Any,
            num_items_in_batch: Any = None,
            **options: Any,
        ) -> torch.Tensor:
            return model(**inputs, use_cache=False, num_items_in_batch=num_items_in_batch).loss

    return WholeLogitsTrainer if device.type == "cpu" else SFTTrainer


def _after_each_step(call: Callable[[], None]) -> Any:
    from transformers import TrainerCallback

    class AfterEachStep(TrainerCallback):
        def on_step_end(self, *args: Any, **options: Any) -> None:
            call()

    return AfterEachStep()


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose state file, which the trainer writes last, is there and readable."""
    complete = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            complete.append((read_json(state)["global_step"], str(state.parent)))
        except (ValueError, KeyError):
            continue  # cut off while being written
    return max(complete)[1] if complete else None


def _check_it_learned(folder: Path) -> None:
    from safetensors.torch import load_file

    if not changes_anything(load_file(folder / "adapter_model.safetensors")):
        raise ModelError(
            f"{folder}: the trained adapter changes nothing; raise training.learning_rate or steps"
        )


def _publish(finished: Path, out: Path, facts: dict[str, Any]) -> None:
    """Keep the adapter's two files and what is known of its training; move them into place at once."""
    ready = finished.with_name("ready")
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir(parents=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(finished / name, ready / name)
    config = read_json(ready / "adapter_config.json")
    config["base_model_name_or_path"] = (
        None  # a path of this machine, and any copy of the base will do
    )
    write_json(ready / "adapter_config.json", config)
    write_json(ready / "training.json", facts)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    ready.replace(out)
