"""Shared wording: near duplicates, runs that recur, and runs shared with evaluation texts."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH
from jaxtyping import UInt64

SHINGLE = 5  # words
JACCARD = 0.5
_PERMUTATIONS = 128
_WORD = re.compile(r"[\w']+")


def words(text: str) -> list[str]:
    """Lower-cased words; punctuation does not count."""
    return _WORD.findall(text.lower())


class Vocabulary:
    """Numbers words, so that runs of words can be hashed with array arithmetic."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        rng = np.random.default_rng(0)
        self._bases = rng.integers(1 << 62, size=64, dtype=np.uint64) | np.uint64(1)
        self._mix = np.uint64(0x9E3779B97F4A7C15)

    def __len__(self) -> int:
        return len(self._ids)

    def runs(self, text: str, length: int) -> UInt64[np.ndarray, " run"]:
        """A 64-bit hash of every run of `length` words, in the text's order."""
        ids = [self._ids.setdefault(word, len(self._ids) + 1) for word in words(text)]
        count = len(ids) - length + 1
        if count < 1:
            return np.empty(0, np.uint64)
        numbers = np.array(ids, np.uint64) * self._mix
        numbers ^= numbers >> np.uint64(29)
        hashes = np.zeros(count, np.uint64)
        for offset in range(length):
            hashes += numbers[offset : offset + count] * self._bases[offset]
        return hashes


def run_at(text: str, index: int, length: int) -> str:
    """The run of words that starts with word `index`."""
    return " ".join(words(text)[index : index + length])


def frequent_runs(texts: Sequence[str], length: int, share: float) -> list[tuple[str, int]]:
    """Runs of `length` words in more than `share` of the texts, with the number of texts, most first."""
    vocabulary = Vocabulary()
    per_text = [np.unique(vocabulary.runs(text, length)) for text in texts]
    hashes, counts = np.unique(np.concatenate(per_text), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = []
    for row in order[: int((counts > share * len(texts)).sum())]:
        holder = next(k for k, runs in enumerate(per_text) if hashes[row] in runs)
        index = int(np.flatnonzero(vocabulary.runs(texts[holder], length) == hashes[row])[0])
        found.append((run_at(texts[holder], index, length), int(counts[row])))
    return found


def shared_runs(
    texts: Mapping[str, str], others: Mapping[str, str], length: int
) -> Iterator[tuple[str, str, str]]:
    """(id, other id, run) for every text that shares a run of `length` words with one of the others."""
    vocabulary = Vocabulary()
    holders: dict[int, str] = {}
    for name, text in others.items():
        for hashed in vocabulary.runs(text, length).tolist():
            holders.setdefault(hashed, name)
    for name, text in texts.items():
        for index, hashed in enumerate(vocabulary.runs(text, length).tolist()):
            if hashed not in holders:
                continue
            run, other = run_at(text, index, length), holders[hashed]
            if f" {run} " in f" {' '.join(words(others[other]))} ":
                yield name, other, run


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of texts with a Jaccard similarity of 0.5 or more over runs of five words."""

    pairs: tuple[tuple[str, str, float], ...]  # id, id, similarity

    @property
    def members(self) -> set[str]:
        """Every text that has a near duplicate."""
        return {name for *names, _ in self.pairs for name in names}


def near_duplicates(texts: Mapping[str, str]) -> NearDuplicates:
    """Near duplicates among `texts`.

    Candidates come from MinHash with locality-sensitive hashing, tuned to miss few; what counts is
    the exact similarity of every candidate.
    """
    index = MinHashLSH(threshold=JACCARD, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
    vocabulary = Vocabulary()
    shingles: dict[str, set[int]] = {}
    found = []
    for name, text in texts.items():
        shingles[name] = set(vocabulary.runs(text, SHINGLE).tolist())
        if not shingles[name]:
            continue
        minhash = MinHash(_PERMUTATIONS, hashfunc=lambda number: number)
        minhash.update_batch([run & 0xFFFFFFFF for run in shingles[name]])
        for candidate in index.query(minhash):
            shared = len(shingles[name] & shingles[candidate])
            similarity = _jaccard(shared, len(shingles[name]), len(shingles[candidate]))
            if similarity >= JACCARD:
                found.append((candidate, name, similarity))
        index.insert(name, minhash)
    return _most_alike_first(found)


def near_duplicates_of(texts: Mapping[str, str], others: Mapping[str, str]) -> NearDuplicates:
    """Near duplicates between `others` and `texts`, by looking up every run: none is missed."""
    vocabulary = Vocabulary()
    holders: dict[int, list[str]] = defaultdict(list)
    sizes = {}
    for name, text in others.items():
        runs = set(vocabulary.runs(text, SHINGLE).tolist())
        sizes[name] = len(runs)
        for run in runs:
            holders[run].append(name)
    found = []
    for name, text in texts.items():
        runs = set(vocabulary.runs(text, SHINGLE).tolist())
        shared = Counter(other for run in runs & holders.keys() for other in holders[run])
        for other, count in shared.items():
            similarity = _jaccard(count, len(runs), sizes[other])
            if similarity >= JACCARD:
                found.append((other, name, similarity))
    return _most_alike_first(found)


def _jaccard(shared: int, first: int, second: int) -> float:
    return shared / (first + second - shared)


def _most_alike_first(pairs: Iterable[tuple[str, str, float]]) -> NearDuplicates:
    return NearDuplicates(tuple(sorted(pairs, key=lambda pair: -pair[2])))
