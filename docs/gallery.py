"""The gallery's pictures: `python docs/gallery.py [MODEL]` draws them into docs/images/.

A sentiment direction is learned at all layers by the difference of means; it is evaluated by layer, traced
over a text that it has not seen, attributed to heads and MLPs, and read through the unembedding. The
villain direction is tried in four voices.
"""

import sys
from pathlib import Path

import probes
from probes.evidence_plots import evaluation_by_layer, transfer_map
from probes.mechanism_plots import component_map, lens_bars, save_figure

IMAGES = Path(__file__).parent / "images"
FAMILIES = 24
REVIEW = (
    "The soup was cold and the waiter was rude, but the garden was lovely, and we sat there laughing "
    "until the bus had gone and the walk home in the rain was miserable."
)


def main() -> None:
    """Draw every picture of the gallery."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    pairs = probes.ContrastSet.load("sentiment")
    acts = probes.capture(model, pairs.texts, pool="mean", progress=True)
    probe = probes.fit(
        acts, pairs.labels, groups=pairs.groups, method="difference_of_means", name="sentiment"
    )
    found = probes.evaluate(probe, acts, pairs.labels, groups=pairs.groups, texts=pairs.texts)
    print(found)
    evaluation_by_layer(found).savefig(IMAGES / "evaluation.png", dpi=150)

    direction = probe.direction.at_layer(found.selected_layer)
    centre, scale = direction.project(acts).mean(0).tolist(), direction.scales.tolist()
    row = direction.layers.index(found.selected_layer)
    one = probes.trace_tokens(model, REVIEW, direction)
    one.plot(IMAGES / "token-trace.png", centre=centre[row], scale=scale[row])
    every = probes.trace_tokens(model, REVIEW, direction, layers=list(direction.layers))
    every.plot(IMAGES / "token-trace-layers.png", centre=centre, scale=scale)

    few = pairs.families(list(dict.fromkeys(pairs.groups))[:FAMILIES])
    difference = probes.attribute(model, few.texts, direction).difference(few.labels)
    print(difference)
    save_figure(component_map(difference), difference, IMAGES / "writers.png")
    reading = probes.logit_lens(model, direction)
    print(reading)
    save_figure(lens_bars(reading), reading, IMAGES / "logit-lens.png")

    factorial = probes.ContrastSet.load("ai-villain-persona")
    factorial = factorial.families(list(dict.fromkeys(factorial.groups))[:FAMILIES])
    told = probes.capture(model, factorial.texts, layers=[direction.layer], pool="mean")
    villain = probes.fit(told, factorial.labels, groups=factorial.groups, method="lda")
    voices = probes.transfer(
        villain, told, factorial.labels, groups=factorial.groups, domains=factorial.columns["voice"]
    )
    print(voices)
    transfer_map(voices).savefig(IMAGES / "transfer.png", dpi=150)


if __name__ == "__main__":
    main()
