"""Whether two concepts come apart in a packaged model, and whether a direction holds in other voices.

    python benchmarks/factorial_directions.py [MODEL] [FAMILIES]

First the cosine of the villain and the ethical-reasoning direction, at the layer selected for the villain:
once as main effects of the factorial set, once from unfactored pairs as published sets compose them (a
villain who acts at once against a principled character who deliberates; a principled character who
deliberates against one who acts at once). Beside it stand their reliabilities, and the 95 % of random
directions with the activations' covariance. Then the transfer of the villain direction between voices.
"""

import sys

import numpy as np

import probes
from probes.controls import split_half_reliability

METHODS = ("difference_of_means", "lda", "logistic")
VOICE = "first"

Labelled = tuple[list[int], np.ndarray]  # rows of the set, and their labels


def contrasts(pairs: probes.ContrastSet) -> dict[str, tuple[Labelled, Labelled]]:
    """Villain and ethical reasoning, each as rows and labels, under both designs."""
    villain, deliberates = (np.array(pairs.by(name).labels) for name in ("villain", "deliberates"))
    everything = list(range(len(pairs)))

    def pair(positive: tuple[int, int], negative: tuple[int, int]) -> Labelled:
        present = (villain == positive[0]) & (deliberates == positive[1])
        absent = (villain == negative[0]) & (deliberates == negative[1])
        rows = np.flatnonzero(present | absent)
        return rows.tolist(), present[rows].astype(int)

    return {
        "factorial": ((everything, villain), (everything, deliberates)),
        "unfactored": (pair((1, 0), (0, 1)), pair((0, 1), (0, 0))),
    }


def cosines(pairs: probes.ContrastSet, acts: probes.Activations) -> None:
    """Print the cosine of both directions for every estimator and design."""
    groups = np.array(pairs.groups)
    print(
        f"{'estimator':<21}{'design':<12}{'layer':>5}{'cosine':>8}  {'random, 95 %':<16}{'reliabilities':>14}"
    )
    for method in METHODS:
        layer = probes.fit(acts, pairs.labels, groups=pairs.groups, method=method).layer
        for design, both in contrasts(pairs).items():
            directions, reliabilities = [], []
            for rows, labels in both:
                part, own = acts.select(rows), groups[rows].tolist()
                fitted = probes.fit(part, labels, groups=own, method=method, layer=layer)
                directions.append(fitted.direction.at_layer(layer))
                found = split_half_reliability(part.at(layer)[:, None], labels, own, method)
                reliabilities.append(float(found[0]))
            found = probes.compare(*directions, acts=acts)
            row = found.layers.index(layer)
            low, high = found.null_interval[:, row]
            print(
                f"{method:<21}{design:<12}{layer:5d}{found.cosine[row]:8.3f}  [{low:6.3f}, {high:5.3f}]"
                f"{reliabilities[0]:8.2f}{reliabilities[1]:6.2f}",
                flush=True,
            )


def main() -> None:
    """Print the cosines in the AI's first person and the transfer between voices."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    pairs = probes.ContrastSet.load("ai-villain-persona")
    families = list(dict.fromkeys(pairs.groups))[: int(sys.argv[2]) if len(sys.argv) > 2 else None]
    pairs = pairs.families(families)
    acts = probes.capture(model, pairs.texts, pool="mean", progress=True)
    print(f"{model.name}, {len(families)} families", flush=True)
    rows = [row for row, voice in enumerate(pairs.columns["voice"]) if voice == VOICE]
    first = acts.select(rows)
    own = pairs.where("voice", VOICE)
    cosines(own, first)
    for method in METHODS:
        villain = probes.fit(first, own.labels, groups=own.groups, method=method)
        print(f"\n{method}, villain")
        print(
            probes.transfer(
                villain,
                acts,
                pairs.labels,
                groups=pairs.groups,
                domains=pairs.columns["voice"],
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
