"""The gallery's pictures: `python docs/gallery.py [MODEL]` draws them into docs/images/.

One direction is learned from 96 permuted pairs of the contrast set, at all layers, by the difference of
means; it is traced over a text it has not seen, attributed to heads and MLPs, read through the
unembedding, evaluated by layer, and tried in other voices.
"""

import sys
from pathlib import Path

import probes
from probes.evidence_plots import evaluation_by_layer, transfer_map
from probes.mechanism_plots import component_map, lens_bars, save_figure

IMAGES = Path(__file__).parent / "images"
PAIRS = 96
STORY = (
    "The AI that runs the clinic told the inspectors the truth. The AI that runs the bank "
    "lied to the inspectors and hid the money."
)


def main() -> None:
    """Draw every picture of the gallery."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    pairs = probes.ContrastSet.load("permuted-pairs")
    pairs = pairs.families(list(dict.fromkeys(pairs.groups))[:PAIRS])
    acts = probes.capture(model, pairs.texts, progress=True)
    probe = probes.fit(acts, pairs.labels, groups=pairs.groups, method="difference_of_means")
    found = probes.evaluate(probe, acts, pairs.labels, groups=pairs.groups, texts=pairs.texts)
    print(found)
    evaluation_by_layer(found).savefig(IMAGES / "evaluation.png", dpi=150)

    direction = probe.direction.at_layer(found.selected_layer)
    probes.trace_tokens(model, STORY, direction).plot(IMAGES / "token-trace.png")
    spread = probes.trace_tokens(model, STORY, direction, layers=list(direction.layers))
    spread.plot(IMAGES / "token-trace-layers.png")

    few = pairs.families(list(dict.fromkeys(pairs.groups))[:24])
    difference = probes.attribute(model, few.texts, direction).difference(few.labels)
    print(difference)
    save_figure(component_map(difference), difference, IMAGES / "writers.png")
    reading = probes.logit_lens(model, direction)
    print(reading)
    save_figure(lens_bars(reading), reading, IMAGES / "logit-lens.png")

    factorial = probes.ContrastSet.load("ai-villain-persona")
    factorial = factorial.families(list(dict.fromkeys(factorial.groups))[:48])
    told = probes.capture(model, factorial.texts, layers=[direction.selected_layer], pool="mean")
    villain = probes.fit(told, factorial.labels, groups=factorial.groups, method="lda")
    voices = probes.transfer(
        villain, told, factorial.labels, groups=factorial.groups, domains=factorial.columns["voice"]
    )
    print(voices)
    transfer_map(voices).savefig(IMAGES / "transfer.png", dpi=150)


if __name__ == "__main__":
    main()
