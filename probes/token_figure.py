"""A `TokenTrace` as a matplotlib figure: bars over the tokens at one layer, a heat map at several."""

import math
import os
from typing import TYPE_CHECKING

import matplotlib.style
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from probes.errors import DataError
from probes.files import atomic_path
from probes.heatmap import Panel, PerLayer, called, heading, number, panels, remarks, unit

if TYPE_CHECKING:
    from probes.tracing import TokenTrace

TOKENS_PER_ROW = 48
TALLEST = 250.0  # inches; 30,000 pixels, which is still a picture that programs open
INK, FAINT = "#5d6670", "#b8bcc0"


def figure(
    trace: "TokenTrace",
    path: str | os.PathLike | None,
    layer: int | None,
    centre: PerLayer,
    scale: PerLayer,
    limit: float | None,
) -> Figure:
    """See `TokenTrace.plot`; the figure belongs to no pyplot window and is freed with its last user."""
    drawn = panels(trace, layer, centre, scale, limit)
    # "$" in a token is a dollar sign; texts take this setting when they are made, for good
    settings = {"font.family": ["DejaVu Sans"], "font.size": 9, "text.parse_math": False}
    with matplotlib.style.context(["default", settings]):
        picture = _draw(trace, drawn)
        if path is not None:
            _save(picture, path)
    return picture


def _save(picture: Figure, path: str | os.PathLike) -> None:
    kind = os.path.splitext(path)[1].lstrip(".").lower()
    kinds = picture.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise DataError(f"{path}: a figure's suffix must be one of {', '.join(sorted(kinds))}")
    with atomic_path(path) as temporary:
        picture.savefig(temporary, format=kind)


def _draw(trace: "TokenTrace", drawn: list[Panel]) -> Figure:
    """Rows of up to 48 tokens, one below the other, laid out in inches."""
    rows, columns = math.ceil(len(trace) / TOKENS_PER_ROW), min(len(trace), TOKENS_PER_ROW)
    left, right, top, below, cell = 0.7, 0.9, 0.6, 0.95, 0.2
    body = 1.3 if len(drawn) == 1 else max(0.6, 0.15 * len(drawn))
    width = max(left + right + cell * columns, 5.5)
    height = top + rows * (body + below)
    if height > TALLEST:
        raise DataError(
            f"{len(trace)} tokens at {len(drawn)} layers are too many for one figure; use to_html, "
            "choose a layer, or trace a part of the text"
        )
    picture = Figure(figsize=(width, height), dpi=120)
    for row in range(rows):
        start = row * TOKENS_PER_ROW
        stop = min(start + TOKENS_PER_ROW, len(trace))
        bottom = height - top - row * (body + below) - body
        box = (left / width, bottom / height, cell * (stop - start) / width, body / height)
        axes = picture.add_axes(box)
        draw = _bars if len(drawn) == 1 else _cells
        draw(axes, trace, drawn, range(start, stop))
        axes.set_xlim(start - 0.5, stop - 0.5)
        axes.set_xticks([])
        for position in range(start, stop):
            text = _label(trace.tokens[position])
            axes.annotate(
                text, (position, 0), (0, -4), xycoords=("data", "axes fraction"),
                textcoords="offset points", rotation=90 if len(text) > 2 else 0,
                va="top", ha="center", fontsize=8,
            )  # fmt: skip
    title = heading(trace, drawn[0]) if len(drawn) == 1 else f"Projections on {called(trace)}"
    for line, (text, size) in enumerate([(title, 10), (_remark(trace, drawn), 8)]):
        y = 1 - (0.2 + 0.2 * line) / height
        picture.text(left / width, y, text, fontsize=size, va="center")
    return picture


def _remark(trace: "TokenTrace", drawn: list[Panel]) -> str:
    if len(drawn) == 1:
        return " · ".join(remarks(trace, drawn[0]))
    limits = {panel.limit for panel in drawn}
    at = f"±{limits.pop():.4g}" if len(limits) == 1 else "each block's limit, right"
    facts = [f"red above, blue below, full colour at {at}"]
    if any(unit(panel) for panel in drawn):
        facts.append("(projection − centre) / scale")
    return " · ".join(facts + ["BOS grey, not on the scale"] * trace.bos)


def _bars(axes: Axes, trace: "TokenTrace", drawn: list[Panel], positions: range) -> None:
    panel = drawn[0]
    for position in positions:
        value = max(-panel.limit, min(panel.limit, panel.shown[position]))
        if position < trace.bos:
            axes.bar(position, value, 0.9, fill=False, linestyle=":", edgecolor=INK)
            continue
        colour = colormaps["RdBu_r"](0.5 + 0.5 * value / panel.limit)
        axes.bar(position, value, 0.9, color=colour, edgecolor=INK, linewidth=0.4)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.set_ylim(-1.05 * panel.limit, 1.05 * panel.limit)
    axes.set_yticks(
        [-panel.limit, 0, panel.limit], [number(v) for v in (-panel.limit, 0, panel.limit)]
    )
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _cells(axes: Axes, trace: "TokenTrace", drawn: list[Panel], positions: range) -> None:
    share = np.array([[p.shown[k] / p.limit for k in positions] for p in drawn])
    if positions.start < trace.bos:
        share[:, : trace.bos] = np.nan
    edges = (positions.start - 0.5, positions.stop - 0.5, len(drawn) - 0.5, -0.5)
    axes.set_facecolor(FAINT)
    axes.imshow(
        np.ma.masked_invalid(share), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", extent=edges,
        interpolation="nearest",
    )  # fmt: skip
    axes.set_yticks(range(len(drawn)), [str(panel.layer) for panel in drawn], fontsize=7)
    axes.set_ylabel("block")
    if len({panel.limit for panel in drawn}) == 1:
        return  # the caption has it
    for level, panel in enumerate(drawn):
        axes.annotate(
            number(panel.limit).replace("+", "±"), (1, level), (4, 0),
            xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", fontsize=7, color=INK,
        )  # fmt: skip


def _label(token: str) -> str:
    """A token below its column: white space made visible, what the font lacks as a box, long ones cut."""
    font = get_font(findfont("DejaVu Sans"))
    text = (token.strip(" ") or "␣" * len(token)).replace("\n", "↵").replace("\t", "⇥")
    text = "".join(sign if font.get_char_index(ord(sign)) else "▯" for sign in text)
    return text if len(text) <= 14 else f"{text[:13]}…"
