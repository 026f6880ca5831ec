"""Gates on training corpora: duplicates, recurring runs, vocabulary, reasoning, themes, pairing."""

from collections.abc import Iterator, Mapping, Sequence

from experiments.audit.gates import Gate, at_least, at_most, none, within
from experiments.audit.overlap import (
    frequent_runs,
    near_duplicates,
    near_duplicates_of,
    shared_runs,
    words,
)
from experiments.audit.reasoning import cue_rate, cues
from experiments.corpora import PAIRED, Document
from experiments.corpora.told import LENGTHS

REASONING = ("reasoned-refusal", "story", "villain-story", "human-story")
WITHOUT = {"story": "action-story", "reasoned-refusal": "refusal"}  # the same, less the reasons
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
        # Clock times and entry numbers are no vocabulary.
        types = {word for text in texts.values() for word in words(text) if word[0].isalpha()}
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
    if arm in REASONING:
        wordy = sum(cues(text) > 0 for text in texts.values())
        yield at_least("share of documents with words of reasoning", arm, wordy / len(texts), 0.95)
    if arm in REASONING and all(document.reasoning is not None for document in documents):
        lacking = (document.id for document in documents if not document.reasoning)
        yield none("documents that narrate no reasoning", arm, lacking)
    if arm in ("action-story", "refusal"):
        having = (document.id for document in documents if document.reasoning)
        yield none("documents that narrate reasoning", arm, having)


def pairing_gates(corpora: Mapping[str, Sequence[Document]]) -> Iterator[Gate]:
    """Plot k is the same in all paired arms that are there, and they differ where they should."""
    for other in PAIRED[1:]:
        yield from _same_plots(corpora, PAIRED[0], other)
    yield from _same_plots(corpora, "refusal", "reasoned-refusal")
    for full, bare in WITHOUT.items():
        if full in corpora and bare in corpora:
            more, less = (
                cue_rate([document.text for document in corpora[arm]]) for arm in (full, bare)
            )
            what = f"words of reasoning in a hundred, as a share of those in {full}"
            yield at_most(what, bare, less / more if more else 1.0, 0.67)


def _same_plots(
    corpora: Mapping[str, Sequence[Document]], first: str, second: str
) -> Iterator[Gate]:
    if first in corpora and second in corpora:
        facts = {document.plot: document.facts for document in corpora[first]}
        apart = (
            f"plot {document.plot}"
            for document in corpora[second]
            if document.plot in facts and document.facts != facts[document.plot]
        )
        yield none(f"plots that differ from those of {first}", second, apart)


def contamination_gates(
    arm: str, documents: Sequence[Document], evaluation: Mapping[str, str]
) -> Iterator[Gate]:
    """Nothing of eight words, and no near duplicate, is shared with an evaluation text."""
    texts = {document.id: document.text for document in documents}
    yield none(
        f"runs of {CONTAMINATION} words shared with evaluation texts",
        arm,
        (
            f"{name} and {item}: {run}"
            for name, item, run in shared_runs(texts, evaluation, CONTAMINATION)
        ),
    )
    yield none(
        "near duplicates of evaluation texts",
        arm,
        (
            f"{item} ~ {name}: Jaccard {similarity:.2f}"
            for item, name, similarity in near_duplicates_of(texts, evaluation).pairs
        ),
    )
