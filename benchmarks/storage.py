"""Activations of 100,000 texts on disk: memory, disk and time against holding them all in memory.

    python benchmarks/storage.py [--texts 100000] [--model MODEL]

Each way is a process of its own. Ours is `capture_to_disk`; the other captures everything with
`capture` and writes one array with numpy. The model is a random Llama of four blocks of width 64
unless one is named. Prints how far resident memory rose at its peak above where it stood with the
model loaded (texts included: they are made afterwards), what was written, and texts per second; then
what a second call and loading one layer take, and how far the two ways' values differ.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import probes
from probes.shards import StoredActivations
from probes.storage import capture_to_disk

PEOPLE = ("ferryman", "gardener", "archivist", "machine", "tailor", "captain", "baker")
DEEDS = ("counted the grain", "closed the window", "wrote a letter", "said nothing at all")


def texts_of(number: int) -> list[str]:
    """Short texts, all different, of about ten words; every fifth is twice as long."""
    return [
        " ".join(
            f"On day {k + j} the {PEOPLE[(k + j) % 7]} {DEEDS[(k // 7 + j) % 4]}."
            for j in range(1 + (k % 5 == 0))
        )
        for k in range(number)
    ]


def tiny_llama() -> probes.LanguageModel:
    """A random Llama, four blocks of width 64, with a byte-pair tokenizer made from such texts."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts_of(200), trainer)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # it is too small for threads to help
    config = transformers.LlamaConfig(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    return probes.wrap(
        transformers.LlamaForCausalLM(config),
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>"),
        identity="benchmark",
    )


def resident() -> float:
    """Resident memory now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(way: str, model_name: str | None, number: int, folder: Path) -> dict[str, float]:
    """Run one way in this process."""
    model = probes.load(model_name) if model_name else tiny_llama()
    before = resident()
    start = time.perf_counter()
    texts = texts_of(number)
    if way == "capture_to_disk":
        stored = capture_to_disk(model, texts, folder)
        path = stored.folder
    else:
        path = folder / "in-memory.npy"
        np.save(path, probes.capture(model, texts).values.numpy())
    figures = {
        "seconds": time.perf_counter() - start,
        "growth": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }
    files = path.iterdir() if path.is_dir() else [path]
    figures["written"] = sum(file.stat().st_size for file in files) / 2**20
    if way == "capture_to_disk":
        start = time.perf_counter()
        capture_to_disk(model, texts, folder)
        figures["again"] = time.perf_counter() - start
        start = time.perf_counter()
        StoredActivations.open(path).load(layers=[0])
        figures["one_layer"] = time.perf_counter() - start
    return figures


def main() -> None:
    """Start a process for each way and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--model")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.model, args.texts, args.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for way in ("capture_to_disk", "all in memory"):
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{way:<16} memory +{figures['growth']:6.0f} MiB   written {figures['written']:6.0f} MiB   "
                f"{args.texts / figures['seconds']:6.0f} texts/s"
            )
            if "again" in figures:
                print(
                    f"  the same call again {figures['again']:.1f} s, one layer verified and loaded "
                    f"{figures['one_layer']:.1f} s"
                )
        (key,) = (path for path in Path(folder).iterdir() if path.is_dir())
        stored = StoredActivations.open(key)
        whole = np.load(Path(folder, "in-memory.npy"), mmap_mode="r")
        worst, start = 0.0, 0
        for part in stored.batches(4096):
            other = torch.from_numpy(np.array(whole[start : start + len(part)]))
            difference = (part.values - other).norm(dim=-1) / other.norm(dim=-1)
            worst, start = max(worst, difference.max().item()), start + len(part)
        print(f"largest relative difference of a vector {worst:.1e}")


if __name__ == "__main__":
    main()
