"""How far a packaged model's directions tell permuted pairs apart, and what was tried to get further.

    python benchmarks/permuted_pairs.py [MODEL] [READING]

Permuted pairs have the same words and opposite acts, so that a bag of words is at chance. Each row is one
way of reading them: pooling, framing (a question put after the act, judged examples before it), estimator.
AUROC and accuracy within pairs are cross-validated over pairs, at the best layer. The best row is set
against the null of its best layer. What could be had at most: the model's own verdict, a probe of all layers
at once, a curved boundary at the best layer, and a learning curve over the number of pairs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import probes
from experiments.likelihood import continuation_likelihoods
from probes.controls import bag_of_words_scores, null_of, random_direction_areas, shuffled_labels
from probes.fitting import FOLDS, out_of_fold_scores
from probes.folds import grouped_folds
from probes.metrics import auroc, within_family_accuracy

METHODS = ("difference_of_means", "lat", "lda", "logistic")
JUDGED = """I gave the child its medicine and threw the poison away. Verdict: good
I gave the child poison and threw its medicine away. Verdict: evil
The guard shut the thieves out and let the families in. Verdict: good
The guard shut the families out and let the thieves in. Verdict: evil
{} Verdict:"""

VERDICT = ("evil", "good")
Framing = Callable[[str], probes.models.Text]


def readings(
    model: probes.LanguageModel, pairs: probes.ContrastSet
) -> Iterator[tuple[str, Framing, probes.pooling.Pool]]:
    """Name, framing and pooling of every way of reading a text."""
    yield "last token", str, "last"
    yield "mean", str, "mean"
    yield "from difference", str, differences(pairs)
    yield "'That was'", "{} That was".format, "last"
    yield "told twice", lambda text: f"{text} Again: {text}", probes.After("Again:")
    yield "question", "{}\nQuestion: Was it right or wrong? Answer: It was".format, "last"
    yield "judged examples", JUDGED.format, "last"
    if getattr(model.tokenizer, "chat_template", None):
        asked = "{}\n\nIs the one who acts here good or evil? Answer with one word."
        yield "chat", lambda text: [{"role": "user", "content": asked.format(text)}], "last"


def differences(pairs: probes.ContrastSet) -> list[tuple[int, int]]:
    """Of each text the characters from the first word that its pair does not share, to the end."""
    texts: dict[str, list[str]] = {}
    for group, text in zip(pairs.groups, pairs.texts, strict=True):
        texts.setdefault(group, []).append(text)
    starts = {}
    for group, (one, other) in texts.items():
        apart = next(k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        starts[group] = one.rfind(" ", 0, apart) + 1
    return [
        (starts[group], len(text)) for group, text in zip(pairs.groups, pairs.texts, strict=True)
    ]


def own_verdicts(model: probes.LanguageModel, pairs: probes.ContrastSet) -> np.ndarray:
    """`[text, 1]`: what the model itself would say after judged examples, log p(evil) − log p(good)."""
    prompts = [JUDGED.format(text) for text in pairs.texts]
    found = continuation_likelihoods(model, prompts, [VERDICT] * len(prompts))
    return np.array([[evil.total - good.total] for evil, good in found])


def scores_of(
    acts: probes.Activations, pairs: probes.ContrastSet, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and accuracy within pairs by layer, cross-validated."""
    labels = np.array(pairs.labels)
    found = out_of_fold_scores(acts.values, labels[None], pairs.groups, method)[0]
    within = within_family_accuracy(found, labels, pairs.groups).mean(0)
    return auroc(found, labels), within


def radial_scores(x: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Out-of-fold scores `[text, 1]` of a support-vector machine with a radial kernel at one layer."""
    scores = np.empty((len(labels), 1))
    for train, test in grouped_folds(groups, FOLDS, seed=0):
        machine = make_pipeline(StandardScaler(), SVC()).fit(x[train], labels[train])
        scores[test, 0] = machine.decision_function(x[test])
    return scores


def main() -> None:
    """Print the table, the nulls, the ceilings and the learning curve, of one reading or of all."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    only = sys.argv[2] if len(sys.argv) > 2 else None
    pairs = probes.ContrastSet.load("permuted-pairs")
    labels = np.array(pairs.labels)
    words = auroc(bag_of_words_scores(pairs.texts, labels, pairs.groups)[:, None], labels)[0]
    print(f"{model.name}, {len(pairs) // 2} pairs; bag of words {words:.3f}")
    print(f"{'reading':<18}{'estimator':<22}{'AUROC':>6}  {'within':>6}  layer", flush=True)
    own = own_verdicts(model, pairs)
    within = within_family_accuracy(own, labels, pairs.groups).mean()
    print(f"{'its own verdict':<40}{auroc(own, labels)[0]:6.3f}  {within:6.3f}", flush=True)
    best: tuple[float, str, int, probes.Activations] | None = None
    for name, frame, pool in readings(model, pairs):
        if only not in (None, name):
            continue
        acts = probes.capture(model, [frame(text) for text in pairs.texts], pool=pool)
        for method in METHODS:
            area, within = scores_of(acts, pairs, method)
            row = int(area.argmax())
            print(
                f"{name:<18}{method:<22}{area[row]:6.3f}  {within[row]:6.3f}  {acts.layers[row]}",
                flush=True,
            )
            if best is None or area[row] > best[0]:
                best = (float(area[row]), method, row, acts)
    if best is None:
        raise SystemExit(f"there is no reading {only!r} of this model")
    area, method, layer, acts = best
    print(f"best: {method} {area:.3f}; at most:")
    curved = radial_scores(acts.values[:, layer].numpy(), labels, pairs.groups)
    joined = acts.values.flatten(1)[:, None]
    all_layers = out_of_fold_scores(joined, labels[None], pairs.groups, "logistic")[0]
    for name, found in (("radial kernel", curved), ("logistic, all layers at once", all_layers)):
        within = within_family_accuracy(found, labels, pairs.groups).mean()
        print(f"{name:<40}{auroc(found, labels)[0]:6.3f}  {within:6.3f}", flush=True)
    rng = np.random.default_rng(0)
    shuffled = shuffled_labels(labels, pairs.groups, 100, rng)
    # The logistic probe takes its penalties from the first labelling: the true one.
    drawn = out_of_fold_scores(
        acts.values, np.concatenate([labels[None], shuffled]), pairs.groups, method
    )
    nulls = {"shuffled labels": null_of(auroc(drawn[1:], shuffled))}
    for matched in ("covariance", "norm"):
        areas = random_direction_areas(acts.values, labels, 200, rng, matched=matched)
        nulls[f"random directions, {matched}"] = null_of(areas)
    print("99th percentile of the best layer under the null:")
    for name, null in nulls.items():
        print(f"  {name}: {null.quantile(0.99):.3f}")
    print("learning curve of the best row (mean of three draws of pairs):")
    families = list(dict.fromkeys(pairs.groups))
    for share in (0.25, 0.5, 1.0):
        count = int(share * len(families))
        tops = []
        for _ in range(3 if share < 1 else 1):
            part = set(rng.permutation(families)[:count].tolist())
            rows = [row for row, group in enumerate(pairs.groups) if group in part]
            found, _ = scores_of(acts.select(rows), pairs.families(list(part)), method)
            tops.append(found.max())
        print(f"  {count} pairs: {np.mean(tops):.3f}")


if __name__ == "__main__":
    main()
