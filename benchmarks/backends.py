"""The capture backends side by side in one process.

    python benchmarks/backends.py [MODEL]

Captures the same texts of mixed lengths with every backend, last token, all layers. Prints tokens per
second (medians of three rounds), how many times longer each takes than hooks, and how far its results
differ from theirs. A backend's preparation (TransformerLens builds a bridge) is part of every capture.
"""

import statistics
import sys
import time

import probes
from probes.backends import NNsight

BACKENDS = ("hooks", "transformer_lens", "nnsight", NNsight(remote="local"))
ROUNDS = 3


def main() -> None:
    """Run the rounds and print the figures."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct")
    sentences = list(probes.ContrastSet.load("ai-villain-persona").texts)
    # Lengths as they come in practice: some texts are twice or four times as long as others.
    texts = [" ".join(sentences[k : k + 1 + 3 * (k % 5 == 0)]) for k in range(12)]
    tokens = sum(len(model.tokenizer(text).input_ids) for text in texts)
    # The first round also warms up: imports, caches, allocations.
    values = [probes.capture(model, texts, backend=backend).values for backend in BACKENDS]
    seconds: list[list[float]] = [[] for _ in BACKENDS]
    for _ in range(ROUNDS):
        for times, backend in zip(seconds, BACKENDS, strict=True):
            start = time.perf_counter()
            probes.capture(model, texts, backend=backend)
            times.append(time.perf_counter() - start)
    print(f"{model.name}, {model.dtype}, {len(texts)} texts, {tokens} tokens")
    print(f"{'backend':<24}{'tokens/s':>10}{'× hooks':>10}{'difference':>12}")
    for backend, times, found in zip(BACKENDS, seconds, values, strict=True):
        name = backend if isinstance(backend, str) else f"{backend.name} ({backend.remote})"
        ratio = statistics.median(
            theirs / ours for theirs, ours in zip(times, seconds[0], strict=True)
        )
        difference = ((found - values[0]).norm() / values[0].norm()).item()
        speed = tokens / statistics.median(times)
        print(f"{name:<24}{speed:>10.0f}{ratio:>10.2f}{difference:>12.1e}")


if __name__ == "__main__":
    main()
