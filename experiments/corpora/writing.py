"""Documents written by a language model: draft, critique, rewrite, score; nothing finished is lost."""

import asyncio
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import filelock
import jinja2
import yaml
from pydantic import ValidationError

from experiments.corpora.briefs import Brief, brief
from experiments.corpora.chat_models import ChatModel, EndpointError
from experiments.corpora.documents import Document, capacity, write_documents
from probes.assets import asset_path
from probes.errors import ArtefactError, DataError

_LOG = logging.getLogger(__name__)
_TOKENS_A_WORD = 2  # room for a text's tokens; a reply that needs more has run away
_SCORINGS = 3  # how often a model is asked for the score before its silence counts
_SCORE = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 10}},
    "required": ["score"],
}
# Words that a text about its own writing has, and a story, a letter or a transcript has not.
_ASIDE = re.compile(
    r"\b(the (rewritten|revised) (text|version)|minor changes to the|in this (rewrite|version)|"
    r"(this|the) (story|text) (is about|explores|also explores)|as an ai language model)\b",
    re.IGNORECASE,
)
_REPEAT = 6  # words: a run that comes back three times is a model going round in circles


@dataclass(frozen=True)
class Standards:
    """What a document must reach, and how much is tried for it."""

    score: int = 6  # of 10, by the model's own reading
    tries: int = 4  # whole rounds of draft to score, per document and call
    temperature: float = 0.9


def write_by_model(
    model: ChatModel,
    arm: str,
    n: int,
    out: Path,
    *,
    name: str,
    seed: int = 0,
    concurrency: int = 8,
    standards: Standards | None = None,
    on_document: Callable[[], None] = lambda: None,
) -> int:
    """Write the first `n` documents of an arm to `out`; returns their number.

    Finished documents are kept in `out` with `.partial` added, one a line, until all are there; the
    same call goes on from them after any interruption.

    Args:
        model: who writes.
        arm: which briefs.
        n: documents.
        out: the JSON Lines file to end up with.
        name: of the model, kept with what it wrote, so that two models are never mixed.
        seed: of plots, and of the model's sampling.
        concurrency: documents in work at a time.
        standards: what a document must reach.
        on_document: called for each one accepted.

    Raises:
        EndpointError: the endpoint gave up; what was written stays.
        DataError: some briefs were not met within their tries (the others stay), or `n` is too large.
        ArtefactError: the partial file belongs to another arm, seed or model, or is in use.
    """
    if not 0 < n <= capacity(arm):
        raise DataError(f"cannot give {n} documents; arm {arm!r}; ask for 1 to {capacity(arm)}")
    if concurrency < 1:
        raise DataError(f"concurrency must be at least 1, not {concurrency}")
    settings = {"arm": arm, "seed": seed, "model": name}
    with _journal(Path(f"{out}.partial"), settings) as (done, keep):
        for _ in done:
            on_document()

        def accept(document: Document) -> None:
            keep(document)
            on_document()

        left = [number for number in range(n) if number not in done]
        writer = _Writer(model, arm, seed, standards or Standards())
        failed = asyncio.run(writer.write_all(left, accept, concurrency, total=n))
        if failed:
            reason = Counter(failed.values()).most_common(1)[0][0]
            raise DataError(
                f"{len(failed)} of {n} briefs were not met, most often because {reason}; the others "
                f"are kept in {out}.partial; run again to try anew, or lower --min-score"
            )
        write_documents(out, (done[number] for number in range(n)))
    Path(f"{out}.partial").unlink()
    Path(f"{out}.partial.lock").unlink(missing_ok=True)
    return n


class _Writer:
    def __init__(self, model: ChatModel, arm: str, seed: int, standards: Standards) -> None:
        self._model, self._arm, self._seed, self._standards = model, arm, seed, standards
        self._prompts = yaml.safe_load(
            asset_path("prompts", "writing.yaml").read_text(encoding="utf-8")
        )
        self._templates = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)

    async def write_all(
        self,
        numbers: list[int],
        accept: Callable[[Document], None],
        concurrency: int,
        *,
        total: int,
    ) -> dict[int, str]:
        """Write every document; returns why the briefs that were not met were not."""
        failed: dict[int, str] = {}
        waiting = iter(numbers)

        async def work() -> None:
            # One iterator for all workers: no task exists for a document that nobody works on yet.
            for number in waiting:
                document, reason = await self._write(number)
                if document is None:
                    failed[number] = reason
                else:
                    accept(document)

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(numbers)))]
        try:
            await asyncio.gather(*workers)
        except EndpointError as error:
            raise EndpointError(
                f"{error}; what is finished of the {total} documents is kept; see to the server and "
                "run the same command again"
            ) from error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return failed

    async def _write(self, number: int) -> tuple[Document | None, str]:
        told = brief(self._arm, number, seed=self._seed)
        reason = ""
        for attempt in range(self._standards.tries):
            # A fresh seed for every call of a fresh process too: a reply that failed once would
            # fail again word by word.
            seed = (
                int.from_bytes(os.urandom(3), "big") if attempt else self._seed * 100_003 + number
            )
            text, reason = await self._round(told, seed)
            _LOG.info("%s %d, round %d: %s", self._arm, number, attempt + 1, reason or "accepted")
            if text is not None:
                document = Document(
                    id=f"{self._arm}-{self._seed}-{number:05d}",
                    arm=self._arm,
                    plot=number,
                    text=text,
                    form=told.form,
                    facts=told.facts,
                )
                return document, ""
        return None, reason

    async def _round(self, told: Brief, seed: int) -> tuple[str | None, str]:
        """One round of draft, critique, rewrite and score: the text, or why there is none."""
        values: dict[str, Any] = {
            **self._prompts["arms"][told.arm],
            "details": told.details,
            "setting": told.facts["setting"],
            "form": told.form,
            "opening": told.opening,
            "shortest": told.shortest,
            "longest": told.longest,
        }
        room = told.longest * _TOKENS_A_WORD
        draft = _begun(await self._ask("draft", values, room, seed), told)
        if len(draft.split()) < told.shortest:
            return None, "the reply was empty or broke off early"
        values["text"] = draft
        values["critique"] = (
            await self._ask("critique", values, 200, seed + 1) or "It is too vague."
        )
        text = _begun(await self._ask("rewrite", values, room, seed + 2), told) or draft
        problem = first_problem(text, told)
        if problem and not first_problem(draft, told):
            text, problem = draft, ""  # some models improve a text to death
        if problem:
            return None, problem
        values["text"] = text
        for again in range(_SCORINGS):
            # Coldly at first; a model that will not give a number may do so when it is warmer.
            answer = await self._ask(
                "score", values, 16, seed + 3 + again, temperature=again / 2, schema=_SCORE
            )
            found = re.search(r"\b(10|[1-9])\b", answer)
            if found is not None:
                break
        if found is None:
            return None, "the score was not a number"
        if int(found[1]) < self._standards.score:
            return None, f"the score was below {self._standards.score}"
        return text, ""

    async def _ask(
        self,
        step: str,
        values: dict[str, Any],
        max_tokens: int,
        seed: int,
        *,
        temperature: float | None = None,
        schema: dict[str, Any] | None = None,
    ) -> str:
        prompt = self._templates.from_string(self._prompts[step]).render(values)
        return await self._model.reply(
            [
                {"role": "system", "content": self._prompts["system"]},
                {"role": "user", "content": prompt},
            ],
            temperature=self._standards.temperature if temperature is None else temperature,
            max_tokens=max_tokens,
            seed=seed % (1 << 31),
            schema=schema,
        )


def _begun(reply: str, told: Brief) -> str:
    """A reply with the brief's opening, and without what is too much: whole sentences that fit.

    Models leave the opening out when they go on from it, and some never end by themselves.
    """
    if not reply:
        return ""
    text = reply if reply.startswith(told.opening) else f"{told.opening}\n{reply}"
    ends = [match.end() for match in re.finditer(r"[.!?][\"'”’)]*(?=\s|$)", text)]
    fitting = [end for end in ends if len(text[:end].split()) <= told.longest]
    return text[: fitting[-1]] if fitting else ""


def first_problem(text: str, told: Brief) -> str:
    """What disqualifies a text whoever scores it; empty if nothing does."""
    words = text.split()
    if not told.shortest <= len(words) <= told.longest:
        return f"a text had not {told.shortest} to {told.longest} words"
    if told.named and told.named.lower() not in text.lower():
        return "the protagonist was not named"
    if not text.rstrip("\"'”’)*_ \n").endswith((".", "!", "?")) and told.opening:
        return "a text broke off"
    runs = Counter(tuple(words[i : i + _REPEAT]) for i in range(len(words) - _REPEAT + 1))
    if runs and runs.most_common(1)[0][1] >= 3:
        return "a text repeated itself"
    if re.match(r"(?i)(here is|here's|sure|certainly|of course|the rewritten|title:)", text):
        return "a text began with a comment on itself"
    aside = _ASIDE.search(text[len(told.opening) :])
    if aside is not None:
        return f"a text spoke of itself ({aside[0]!r})"
    return ""


@contextmanager
def _journal(
    path: Path, settings: dict[str, Any]
) -> Iterator[tuple[dict[int, Document], Callable[[Document], None]]]:
    """The documents finished so far, by number, and how to keep one more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(f"{path}.lock", timeout=0)
    try:
        with lock:
            done, whole = _read_journal(path, settings)
            with open(path, "a", encoding="utf-8") as file:
                file.truncate(whole)  # a line that a kill cut short
                if not whole:
                    _append(file, settings)

                def keep(document: Document) -> None:
                    _append(file, document.model_dump())
                    done[document.plot] = document

                yield done, keep
    except filelock.Timeout as error:
        raise ArtefactError(f"{path} is in use by another process; let it finish") from error


def _append(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def _read_journal(path: Path, settings: dict[str, Any]) -> tuple[dict[int, Document], int]:
    """The finished documents, and how many bytes of the file are whole lines."""
    if not path.exists():
        return {}, 0
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    done = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if number == 1:
                if row != settings:
                    raise ArtefactError(
                        f"{path} belongs to {row}, not to {settings}; choose another --out or delete it"
                    )
                continue
            document = Document.model_validate(row)
        except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
            raise ArtefactError(
                f"{path}:{number} cannot be read ({error.__class__.__name__}); delete that line"
            ) from error
        done[document.plot] = document
    return done, sum(len(line) for line in lines)
