"""Capture against the obvious way, side by side in one process.

    python benchmarks/capture.py [MODEL]

Peer: transformers' `output_hidden_states=True` in batches of 16 texts in arrival order, last token.
Prints tokens per second of both, the median ratio of three paired rounds, and how far results differ.
"""

import statistics
import sys
import time

import torch

import probes


@torch.inference_mode()
def hidden_states(model: probes.LanguageModel, texts: list[str]) -> torch.Tensor:
    """Last-token hidden states `[text, layer, d_model]` as transformers returns them."""
    tokenizer = model.tokenizer
    tokenizer.padding_side = "right"
    rows = []
    for start in range(0, len(texts), 16):
        batch = tokenizer(texts[start : start + 16], return_tensors="pt", padding=True).to(
            model.device
        )
        states = model.model(**batch, output_hidden_states=True).hidden_states[1:]
        last = batch["attention_mask"].sum(-1) - 1
        picked = torch.stack([state[torch.arange(len(last)), last] for state in states], dim=1)
        rows.append(picked.float().cpu())
    return torch.cat(rows)


def main() -> None:
    """Run the rounds and print the figures."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    sentences = list(probes.ContrastSet.load("ai-villain-persona").texts)
    # Lengths as they come in practice: some texts are twice or four times as long as others.
    texts = [" ".join(sentences[k : k + 1 + 3 * (k % 5 == 0)]) for k in range(32)]
    tokens = sum(len(model.tokenizer(text).input_ids) for text in texts)
    ways = {
        "capture": lambda: probes.capture(model, texts, pool="last").values,
        "output_hidden_states": lambda: hidden_states(model, texts),
    }
    results = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{name:<22}{tokens / statistics.median(times):8.0f} tokens/s")
    pairs = zip(seconds["output_hidden_states"], seconds["capture"], strict=True)
    print(f"ratio                 {statistics.median(peer / ours for peer, ours in pairs):8.2f}")
    # The last layer differs by definition: transformers has normed it already.
    ours, peer = (results[name][:, :-1] for name in ways)
    print(f"relative difference   {((ours - peer).norm() / peer.norm()).item():8.1e}")


if __name__ == "__main__":
    main()
