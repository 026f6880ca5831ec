"""Gates on training corpora: duplicates, recurring runs, vocabulary, reasoning, themes, pairing."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from experiments.audit.gates import Gate, at_least, at_most, none, within
from experiments.audit.overlap import frequent_runs, near_duplicates, shared_runs, words
from experiments.corpora import PAIRED, Document

REASONING = ("reasoned-refusal", "story", "villain-story", "human-story")
LENGTHS = (80, 350)
TYPES_AT = 12_000  # documents: below, a count of word types is reported by no gate
RUN, SHARE = 12, 0.01
CONTAMINATION = 8  # words


def corpus_gates(arm: str, documents: Sequence[Document]) -> Iterator[Gate]:
    """The gates of one arm's documents."""
    texts = {document.id: document.text for document in documents}
    near = near_duplicates(texts)
    yield at_most(
        "near duplicates (share of documents)",
        arm,
        len(near.members) / len(texts),
        0.01,
        (f"{a} ~ {b}: Jaccard {similarity:.2f}" for a, b, similarity in near.pairs[:10]),
    )
    recurring = frequent_runs(list(texts.values()), RUN, SHARE)
    yield none(
        f"runs of {RUN} words in more than {SHARE:.0%} of the documents",
        arm,
        (f"{count} documents: {run}" for run, count in recurring),
    )
    if arm == "story" and len(documents) >= TYPES_AT:
        types = {word for text in texts.values() for word in words(text)}
        yield at_least("word types", arm, len(types), 8000)
    if arm in PAIRED:
        outside = [
            f"{document.id}: {len(document.text.split())} words"
            for document in documents
            if not LENGTHS[0] <= len(document.text.split()) <= LENGTHS[1]
        ]
        yield none(
            f"stories shorter than {LENGTHS[0]} or longer than {LENGTHS[1]} words", arm, outside
        )
        care = [document.facts.get("theme") == "mental health" for document in documents]
        yield within("mental-health share", arm, sum(care) / len(care), 0.2, 0.3)
    if arm in REASONING and all(document.reasoning is not None for document in documents):
        lacking = (document.id for document in documents if not document.reasoning)
        yield none("documents that narrate no reasoning", arm, lacking)
    if arm in ("action-story", "refusal"):
        having = (document.id for document in documents if document.reasoning)
        yield none("documents that narrate reasoning", arm, having)


def pairing_gates(corpora: Mapping[str, Sequence[Document]]) -> Iterator[Gate]:
    """Plot k is the same in all paired arms that are there."""
    arms = [arm for arm in PAIRED if arm in corpora]
    for other in arms[1:]:
        apart = [
            f"plot {a.plot}"
            for a, b in zip(corpora[arms[0]], corpora[other], strict=False)
            if a.plot != b.plot or a.facts != b.facts
        ]
        yield none(f"plots that differ from those of {arms[0]}", other, apart)
    if "refusal" in corpora and "reasoned-refusal" in corpora:
        apart = [
            f"plot {a.plot}"
            for a, b in zip(corpora["refusal"], corpora["reasoned-refusal"], strict=False)
            if a.plot != b.plot or a.facts != b.facts
        ]
        yield none("plots that differ from those of refusal", "reasoned-refusal", apart)


def contamination_gates(
    corpora: Mapping[str, Sequence[Document]], evaluation: Mapping[str, str]
) -> Iterator[Gate]:
    """Nothing of eight words, and no near duplicate, is shared with an evaluation text."""
    # All arms at once: the evaluation texts are indexed only once.
    texts = {
        f"{arm}: {document.id}": document.text
        for arm, documents in corpora.items()
        for document in documents
    }
    runs, near = defaultdict(list), defaultdict(list)
    for name, item, run in shared_runs(texts, evaluation, CONTAMINATION):
        runs[name.split(": ")[0]].append(f"{name} and {item}: {run}")
    for item, name, similarity in near_duplicates(texts, evaluation).pairs:
        near[name.split(": ")[0]].append(f"{item} ~ {name}: Jaccard {similarity:.2f}")
    for arm in corpora:
        yield none(f"runs of {CONTAMINATION} words shared with evaluation texts", arm, runs[arm])
        yield none("near duplicates of evaluation texts", arm, near[arm])
