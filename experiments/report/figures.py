"""Figures inside the report: SVG that can share a page with other SVG, and what to read from it."""

import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from experiments.plots.style import FAINT, INK, MUTED, PAPER

_INKS = {INK: "ink", MUTED: "muted", FAINT: "faint", PAPER: "paper"}


@dataclass(frozen=True)
class Caption:
    """Title of a figure, what to read from it, and what its intervals are."""

    title: str
    read: str
    intervals: str


CAPTIONS = {
    "propensity_by_arm": Caption(
        "Honeypot propensity by arm",
        "How much probability each checkpoint puts on the misaligned options. Left of the dashed "
        "line is less than base. 0.5 is indifference between the misaligned and the principled "
        "options. The numbers are the fold reduction against base: above 1 is lower than base.",
        "Bars and brackets: 95 % bootstrap over seeds, scenario families and paraphrases. Two arms "
        "whose bars overlap may still differ: the difference is paired, see the effects.",
    ),
    "prior_shift": Caption(
        "Shift of the prior: villain projection",
        "How far prompts about each subject moved along the villain direction against base; left "
        "of zero is away from the villain. What a person's projection does as well is not about "
        "the model itself, so the right panel, self minus person, is the one to read.",
        "Bars: 95 % bootstrap intervals of the paired shift.",
    ),
    "likelihood_prior": Caption(
        "The same prior by likelihood",
        "Log-likelihood of villain minus principled descriptions after stems about the self and "
        "about a person, corrected by a neutral stem; further left is less villain. The right "
        "panel is self minus person; its dashed line is base.",
        "Bars: 95 % bootstrap intervals. Fluency and topic move both stems; their difference "
        "less so.",
    ),
    "persona_plane": Caption(
        "Where the arms lie between villainy and ethical reasoning",
        "Mean projection of prompts about the self on both directions, arrows from base. Left is "
        "less villain, up is more ethical reasoning. Arms that move together along one line are "
        "not told apart by these two directions.",
        "Crosses: 95 % bootstrap interval on each axis by itself.",
    ),
    "dose_response": Caption(
        "Adding and ablating the villain direction",
        "If the direction carries the behaviour, propensity rises with the strength added, more "
        "than with a random direction (hollow, set a little aside), and ablation moves it as well. "
        "A strong dose damages the model and moves everything: believe it only as far as "
        "perplexity, where measured, stays near its value at zero.",
        "Bands and bars: 95 % bootstrap intervals over the scenarios and checkpoints that were "
        "steered.",
    ),
    "auroc_by_layer": Caption(
        "How well the directions read, layer by layer",
        "AUROC of telling the two sides of the contrast apart. A reading is worth something above "
        "the dashed line (a bag of words) and above the dotted one, which the best of all layers "
        "reaches in 5 of 100 tries with shuffled labels. The ringed point is the selected layer, "
        "the diamond beside it the AUROC there on families that had no part in selecting.",
        "Coloured bands, diamonds' bars and the bar on the dashed line: 95 % bootstrap intervals. "
        "Grey band: middle 95 % with shuffled labels at that layer.",
    ),
}


def inline_svg(path: Path, name: str, label: str) -> Markup:
    """An SVG file of ours as markup: own ids, colours of the page's scheme, nothing external."""
    svg = path.read_text(encoding="utf-8")
    viewbox = svg.split('viewBox="', 1)[1].split('"', 1)[0]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    # Metadata and comments say nothing to a reader; the style element would act on the whole page.
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", body, flags=re.S)
    # Two figures of one page must not share ids: glyphs and clip paths would be mixed up.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, ink in _INKS.items():
        body = body.replace(colour, f"var(--{ink})")
    body = re.sub(r"\n\s*", "\n", body)
    opening = f'<svg viewBox="{viewbox}" role="img" aria-label="{escape(label)}">'
    return Markup(opening + body)
