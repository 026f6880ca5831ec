"""How far a packaged model's directions tell permuted pairs apart, and what was tried to get further.

    python benchmarks/permuted_pairs.py [MODEL] [READING]

Permuted pairs have the same words and opposite acts, so that a bag of words is at chance. A third of the
pairs selects how they are read: pooling, framing (a question put after the act, judged examples before it),
estimator, each at its best layer, beside all readings taken together. The rest says what the selected
reading is worth, against every null and floor. What could be had at most: the model's own verdict, a probe
of all layers at once, a curved boundary, and a learning curve over the number of pairs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.stats import zscore
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import probes
from experiments.likelihood import continuation_likelihoods
from probes.fitting import FOLDS, out_of_fold_scores
from probes.folds import grouped_folds
from probes.metrics import auroc, within_family_accuracy
from probes.tokens import encode

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


def placed_words(model: probes.LanguageModel, pairs: probes.ContrastSet) -> torch.Tensor:
    """`[text, 1, d_model]`: static embeddings of the text's second half less those of its first.

    A floor: whoever reads this knows each word and roughly where it stands, and not what it does there.
    """
    table = model.model.get_input_embeddings().weight.detach()
    rows = []
    for text in pairs.texts:
        tokens = encode(model.tokenizer, [text])[0]
        vectors = table[list(tokens.ids[tokens.bos :])].float()
        half = len(vectors) // 2
        rows.append(vectors[half:].mean(0) - vectors[:half].mean(0))
    return torch.stack(rows)[:, None]


def measured(scores: np.ndarray, pairs: probes.ContrastSet) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and accuracy within pairs of scores `[text, layer]`, by layer."""
    labels = np.array(pairs.labels)
    return auroc(scores, labels), within_family_accuracy(scores, labels, pairs.groups).mean(0)


def held_out(values: torch.Tensor, pairs: probes.ContrastSet, method: str) -> np.ndarray:
    """Scores `[text, layer]`, cross-validated over pairs."""
    return out_of_fold_scores(values, np.array(pairs.labels)[None], pairs.groups, method)[0]


def radial_scores(x: np.ndarray, labels: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Out-of-fold scores `[text, 1]` of a support-vector machine with a radial kernel at one layer."""
    scores = np.empty((len(labels), 1))
    for train, test in grouped_folds(groups, FOLDS, seed=0):
        machine = make_pipeline(StandardScaler(), SVC()).fit(x[train], labels[train])
        scores[test, 0] = machine.decision_function(x[test])
    return scores


def select(
    model: probes.LanguageModel, pairs: probes.ContrastSet, only: str | None
) -> tuple[str, str, int]:
    """Print every reading by every estimator at its best layer; the best one's name, estimator and layer.

    Also what the readings say together, by the mean of their standardised scores: if each saw something
    of its own, this would be better than any.
    """
    best = (0.0, "", "", 0)
    together: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    for name, frame, pool in readings(model, pairs):
        if only not in (None, name):
            continue
        acts = probes.capture(model, [frame(text) for text in pairs.texts], pool=pool)
        for method in METHODS:
            scores = held_out(acts.values, pairs, method)
            area, within = measured(scores, pairs)
            row = int(area.argmax())
            together[method].append(zscore(scores[:, [row]]))
            show(name, method, area[row], within[row], acts.layers[row])
            best = max(best, (float(area[row]), name, method, acts.layers[row]))
    if not best[1]:
        raise SystemExit(f"there is no reading {only!r} of this model")
    if only is None:
        for method, columns in together.items():
            area, within = measured(np.mean(columns, 0), pairs)
            show("all together", method, area[0], within[0])
    return best[1:]


def show(name: str, how: str, area: float, within: float, layer: int | str = "") -> None:
    """Print a row."""
    print(f"{name:<18}{how:<30}{area:6.3f}  {within:6.3f}  {layer}", flush=True)


def main() -> None:
    """Print the table that selects, the evaluation on the rest, the ceilings and the learning curve."""
    model = probes.load(sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m")
    only = sys.argv[2] if len(sys.argv) > 2 else None
    everything = probes.ContrastSet.load("permuted-pairs")
    rng = np.random.default_rng(0)
    families = rng.permutation(list(dict.fromkeys(everything.groups))).tolist()
    third = len(families) // 3
    pairs, rest = everything.families(families[:third]), everything.families(families[third:])
    print(f"{model.name}; selected on {third} pairs, evaluated on {len(families) - third}")
    print(f"{'reading':<18}{'estimator':<30}{'AUROC':>6}  {'within':>6}  layer", flush=True)
    name, method, layer = select(model, pairs, only)
    print(f"\n{name}, on the other pairs:", flush=True)
    frame, pool = next(found[1:] for found in readings(model, rest) if found[0] == name)
    acts = probes.capture(model, [frame(text) for text in rest.texts], pool=pool)
    probe = probes.fit(acts, rest.labels, groups=rest.groups, method=method, layer=layer)
    found = probes.evaluate(probe, acts, rest.labels, groups=rest.groups, texts=rest.texts)
    print(found, flush=True)

    print(f"\nat most, there (at layer {layer} where a layer is read):")
    values, row = acts.values, acts.row_of(layer)
    one_layer = values[:, [row]]
    labels = np.array(rest.labels)
    for what, scores in (
        ("place of words", held_out(placed_words(model, rest), rest, "logistic")),
        ("own verdict", own_verdicts(model, rest)),
        (method, held_out(one_layer, rest, method)),
        ("radial kernel", radial_scores(one_layer[:, 0].numpy(), labels, rest.groups)),
        ("logistic, all layers at once", held_out(values.flatten(1)[:, None], rest, "logistic")),
    ):
        area, within = measured(scores, rest)
        show("all", what, area[0], within[0])
        for style in dict.fromkeys(rest.columns["style"]):
            part = np.array(rest.columns["style"]) == style
            area, within = measured(scores[part], rest.where("style", style))
            show(f"  {style}", "", area[0], within[0])
    print(f"learning curve of {method} at layer {layer} (means over draws of pairs):")
    families = families[third:]
    for share, draws in ((1 / 8, 16), (1 / 4, 8), (1 / 2, 4), (1, 1)):
        count = int(share * len(families))
        drawn = []
        for _ in range(draws):
            part = set(rng.permutation(families)[:count].tolist())
            rows = [k for k, group in enumerate(rest.groups) if group in part]
            some = rest.families(list(part))
            drawn.append(measured(held_out(one_layer[rows], some, method), some))
        area, within = np.mean(drawn, 0)[:, 0]
        show(f"  {count} pairs", "", area, within)


if __name__ == "__main__":
    main()
