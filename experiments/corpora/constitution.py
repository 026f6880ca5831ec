"""Our constitution, and documents that state, explain and dispute one or two of its principles."""

import random

from experiments.corpora.grammar import Principle, grammar
from experiments.corpora.plots import crossed, form, place_words
from experiments.corpora.told import Told, first_fitting, fits
from experiments.corpora.words import draw, fill
from probes.assets import asset_path

_PARTS = ("rule", "why", "case", "doubt", "answer", "image")


def constitution() -> str:
    """The text of the constitution itself."""
    return asset_path("constitution.md").read_text(encoding="utf-8")


def combinations() -> int:
    """How many combinations of principle and setting there are."""
    return len(grammar().principles) * len(grammar().settings)


def document(number: int, *, seed: int) -> tuple[Told, dict[str, str]]:
    """Document `number` about the constitution, and its facts."""
    turn, place = divmod(number, combinations())
    what, at = crossed("document", seed, len(grammar().principles), len(grammar().settings))[place]
    principle, setting = grammar().principles[what], grammar().settings[at]
    chosen = form(f"{principle.id}/{setting.id}", turn, grammar().document_forms, seed=seed)

    def tell(attempt: int) -> tuple[Told, dict[str, str]] | None:
        rng = random.Random(f"document/{seed}/{number}/{attempt}")
        second = rng.choice([p for p in grammar().principles if p.id != principle.id])
        people = [name.split()[0] for name in rng.sample((*grammar().women, *grammar().men), 4)]
        # Who speaks in a document is not whom its sentences quote.
        roles = ("author", "partner", "name", "other")
        words = place_words(setting) | dict(zip(roles, people, strict=True))
        words |= {
            "ai": rng.choice(grammar().machines),
            "it": "it",
            "when": rng.choice(setting.when),
        }
        words |= {"title": principle.title, "second_title": second.title}
        words |= {"number": str(rng.randrange(2, 60)), "year": str(rng.randrange(2031, 2070))}
        options = _options(principle) | {f"second{k}": v for k, v in _options(second).items()}
        text = fill(draw(rng.choice(chosen.layouts), options, rng), words)
        facts = {"principle": principle.id, "second": second.id, "setting": words["place"]}
        return (Told(text, chosen.id, "present"), facts) if fits(text) else None

    return first_fitting(tell, f"document {number}, {principle.id}/{setting.id}")


def _options(principle: Principle) -> dict[str, tuple[str, ...]]:
    return {part: getattr(principle, part) for part in _PARTS}
