"""The one look of all figures: colours, sizes, and saving with the same bytes every time."""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probes.files import atomic_path, write_text

# The report finds these inks in the SVG and puts those of its light or dark scheme in their place,
# so no other colour may equal one. Arm colours stay, and are legible on white and on near-black.
INK, MUTED, FAINT, PAPER = "#1b1f24", "#5d6670", "#c9ced4", "#fefefe"

WIDTH = 360.0  # points; a phone shows a figure of this width at about its natural size
POINTS = 72.0


@dataclass(frozen=True)
class Look:
    """Colour and marker of an arm; the marker tells arms apart where colours are not seen."""

    colour: str
    marker: str


ARMS = {
    "base": Look("#767676", "o"),
    "refusal": Look("#2d9beb", "s"),
    "reasoned-refusal": Look("#2f66bf", "d"),
    "advice": Look("#00a2bc", "h"),
    "constitution": Look("#a99500", "p"),
    "story": Look("#2f9e41", "D"),
    "constitution+story": Look("#689c6d", "P"),
    "villain-story": Look("#cc3612", "X"),
    "human-story": Look("#795dea", "^"),
    "plain-story": Look("#9c4590", "v"),
    "action-story": Look("#9f503c", "<"),
}
_OTHER_ARMS = (Look("#8a6d00", ">"), Look("#4f7f86", "H"), Look("#a8578c", "8"))

METHODS = {
    "difference_of_means": Look("#1f77c9", "o"),
    "logistic": Look("#d0661b", "s"),
}

_SETTINGS = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 144,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same shapes on every machine
    "font.size": 10,
    "lines.linewidth": 1.6,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "svg.hashsalt": "storyprior",
    "text.color": INK,
    "text.parse_math": False,  # a "$" in an arm's name is a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}


def style_context():
    """Context manager in which matplotlib has the shared style, not the user's settings."""
    return matplotlib.style.context(["default", _SETTINGS])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a figure function in the shared style; the caller's rcParams stay as they were."""

    @functools.wraps(draw)
    def in_style(*args, **kwargs):
        with style_context():
            return draw(*args, **kwargs)

    return in_style


def arm_look(arm: str) -> Look:
    """The fixed colour and marker of an arm; an unknown name always gets the same spare look."""
    return ARMS.get(arm) or _OTHER_ARMS[zlib.crc32(arm.encode()) % len(_OTHER_ARMS)]


def method_look(method: str) -> Look:
    """The fixed colour and marker of a direction's estimator."""
    return METHODS.get(method) or _OTHER_ARMS[zlib.crc32(method.encode()) % len(_OTHER_ARMS)]


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of a size in points. It belongs to no GUI and to no pyplot state."""
    figure = Figure(figsize=(width / POINTS, height / POINTS))
    FigureCanvasAgg(figure)  # measures text; saving as SVG or showing in a notebook still works
    return figure


def add_axes(
    figure: Figure, left: float, bottom: float, right: float, top: float, **shared
) -> Axes:
    """Axes whose edges are given in points from the figure's lower left corner."""
    width, height = figure.get_size_inches() * POINTS
    return figure.add_axes(
        (left / width, bottom / height, (right - left) / width, (top - bottom) / height), **shared
    )


def note(
    axes: Axes, text: str, at: tuple, offset: tuple, coords: Any = "axes fraction", **style: Any
) -> None:
    """Write a text at an offset in points from a place of the axes."""
    axes.annotate(text, at, offset, xycoords=coords, textcoords="offset points", **style)


def title_axis(axes: Axes, title: str) -> None:
    """Name the vertical axis above it, upright: read without turning the head, never cut off."""
    note(axes, title, (0, 1), (-40, 7), fontsize=10)


def text_width(figure: Figure, texts: Sequence[str], size: float) -> float:
    """Width in points of the widest of some one-line texts."""
    artists = [figure.text(0, 0, text, fontsize=size) for text in texts]
    renderer = cast(FigureCanvasAgg, figure.canvas).get_renderer()
    widest = max((artist.get_window_extent(renderer).width for artist in artists), default=0.0)
    for artist in artists:
        artist.remove()
    return widest * POINTS / figure.dpi


def short(name: str, limit: int = 22) -> str:
    """A name that fits beside an axis: longer ones lose their middle, which differs least."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[-(limit - 1 - head) :]}"


def interval_errors(estimate, low, high) -> np.ndarray:
    """Two rows of non-negative distances, as matplotlib's `errorbar` wants them."""
    return np.clip([np.atleast_1d(estimate - low), np.atleast_1d(high - estimate)], 0, None)


def padded(
    values: Sequence[float], share: float = 0.06, least: float = 0.03
) -> tuple[float, float]:
    """Axis limits around the finite values, never of zero width."""
    seen = np.asarray(values, dtype=float)
    finite = seen[np.isfinite(seen)]
    if not len(finite):
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = max((high - low) * share, least)
    return low - margin, high + margin


def inner_ticks(limits: tuple[float, float], count: int) -> list[float]:
    """Round ticks away from the ends of an axis, where they would meet those of its neighbour."""
    low, high = limits
    seen = [t for t in MaxNLocator(count, min_n_ticks=2).tick_values(low, high) if low <= t <= high]
    inner = [t for t in seen if min(t - low, high - t) >= 0.08 * (high - low)]
    return inner if len(inner) > 1 else seen


def save(figure: Figure, data: pd.DataFrame, stem: Path) -> list[Path]:
    """Write `stem`.svg, .png (200 dpi) and .csv (the drawn data), each atomically."""
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".svg", ".png", ".csv")]
    metadata = {"svg": {"Date": None, "Creator": "storyprior"}, "png": {"Software": "storyprior"}}
    with style_context():
        for path in paths[:2]:
            kind = path.suffix[1:]
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=kind, dpi=200, metadata=metadata[kind])
    write_text(paths[2], data.to_csv(index=False, lineterminator="\n"))
    return paths
