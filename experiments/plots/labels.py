"""Placing labels where they cover neither each other nor the data.

Everything is measured in points from the figure's lower left corner, so that an SVG, a PNG of any
resolution and a notebook show the same arrangement. Axis limits must be final before a call.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.optimize import isotonic_regression

from experiments.plots.style import INK, PAPER, POINTS, text_width

#: A straight line between two places in data coordinates.
Segment = tuple[tuple[float, float], tuple[float, float]]

_DIRECTIONS = [(np.cos(turn), np.sin(turn)) for turn in np.arange(16) * (np.pi / 8)]
_REACHES = (6.0, 11.0, 18.0, 27.0, 38.0, 52.0, 68.0, 88.0, 112.0)
_BESIDE = 11.0  # a label within this reach of its point needs no line to it


def spread(wanted: Sequence[float] | np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions at least `gap` apart, in the order of `wanted` and moved as little as can be.

    They stay in [low, high] when that is wide enough, and start at `low` when it is not.
    """
    centres = np.asarray(wanted, dtype=float)
    if not len(centres):
        return centres
    order = np.argsort(centres, kind="stable")
    steps = gap * np.arange(len(centres))
    # With k gaps taken off the k-th position, "at least a gap apart" becomes "not decreasing".
    packed = isotonic_regression(centres[order] - steps).x
    room = max(high - low - steps[-1], 0.0)
    positions = np.empty_like(centres)
    positions[order] = np.clip(packed, low, low + room) + steps
    return positions


def label_right(
    axes: Axes,
    names: Sequence[str],
    xs: Sequence[float],
    ys: Sequence[float],
    colours: Sequence[str],
    size: float = 9.0,
) -> None:
    """Write names right of the axes, level with their points or led to them by thin lines."""
    _, bottom, edge, top = _frame(axes)
    points = _points(axes, xs, ys)
    levels = spread(points[:, 1], size * 1.35, bottom + size / 2, top - size / 2)
    for name, (x, y), level, colour in zip(names, points, levels, colours, strict=True):
        if abs(level - y) > 0.5 or edge - x > 8:
            _line(axes, [(x + 4, y), (max(edge, x + 4), y), (edge + 8, level)], colour)
        _write(axes, name, (edge + 11, level), size, "left")


def label_points(
    axes: Axes,
    names: Sequence[str],
    xs: Sequence[float],
    ys: Sequence[float],
    colours: Sequence[str],
    avoid: Sequence[Segment] = (),
    size: float = 9.0,
) -> None:
    """Write each name near its point: on no other name or point, and off the lines in `avoid`.

    `avoid` holds line segments in data coordinates. A name that had to move away is led to its
    point by a thin line.
    """
    figure = cast(Figure, axes.figure)
    points = _points(axes, xs, ys)
    lines = [_beads(*_points(axes, *zip(*ends, strict=True))) for ends in avoid]
    ink = np.concatenate([np.empty((0, 2)), *lines])
    marks = np.array([[x - 6, y - 6, x + 6, y + 6] for x, y in points])
    written = np.empty((0, 4))
    for name, point, colour in zip(names, points, colours, strict=True):
        half = np.array([text_width(figure, [name], size) + 3, size * 1.3]) / 2
        places = [_Place(point, half, reach, turn) for reach in _REACHES for turn in _DIRECTIONS]
        best = min(places, key=lambda place: place.rank(_frame(axes), marks, written, ink))
        written = np.vstack([written, best.box])
        if best.led:
            _line(axes, [best.point, best.near], colour)
        _write(axes, name, best.centre, size, "center")


class _Place:
    """A place for a label: a box at some distance and direction from its point."""

    def __init__(
        self, point: np.ndarray, half: np.ndarray, reach: float, turn: tuple[float, float]
    ) -> None:
        self.point, self.reach, self.turn = point, reach, turn
        self.centre = point + np.multiply(turn, reach + half)
        self.box = np.concatenate([self.centre - half, self.centre + half])
        self.near = np.clip(point, self.box[:2], self.box[2:])
        self.led = reach > _BESIDE

    def rank(
        self, frame: tuple[float, ...], marks: np.ndarray, written: np.ndarray, ink: np.ndarray
    ) -> tuple[int, int, float]:
        """What is wrong with it, the worst first: covering something, a crossed label, the rest."""
        box, others = self.box, np.vstack([marks, written])
        covers = np.all((box[:2] < others[:, 2:]) & (others[:, :2] < box[2:]), axis=1).sum()
        outside = np.any(box[:2] < frame[:2]) or np.any(box[2:] > frame[2:])
        crossed = passed = 0
        if self.led:
            leader = _beads(self.point, self.near)
            crossed = sum(bool(_within(leader, label).any()) for label in written)
            passed = sum(bool(_within(leader, mark).any()) for mark in marks) - 1  # its own
        # To the right reads best; a clean place nearby beats a near one on a line, and a line past
        # another mark would name the wrong one.
        inked = int(_within(ink, box).sum())
        side = 2 * abs(self.turn[1]) + (self.turn[0] < -0.1)
        return int(covers + outside), crossed, self.reach + 3 * inked + 25 * passed + side


def _points(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> np.ndarray:
    """Data coordinates → points from the figure's lower left corner, one row each."""
    return axes.transData.transform(np.column_stack([xs, ys])) * POINTS / axes.figure.dpi


def _frame(axes: Axes) -> tuple[float, ...]:
    """Left, bottom, right and top edge of the axes in points."""
    return tuple(np.array(axes.get_window_extent().extents) * POINTS / axes.figure.dpi)


def _beads(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """A line as a row of points 2 apart, for telling whether it crosses a box."""
    return np.linspace(start, end, max(int(np.hypot(*(end - start)) / 2), 1) + 1)


def _within(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    return np.all((points > box[:2] - 1) & (points < box[2:] + 1), axis=1)


def _write(
    axes: Axes, text: str, at: Sequence[float] | np.ndarray, size: float, align: str
) -> None:
    place: dict[str, Any] = {"xycoords": "figure points", "annotation_clip": False, "zorder": 6}
    label = axes.annotate(
        text, (at[0], at[1]), **place, ha=align, va="center", fontsize=size, color=INK
    )
    label.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])  # legible over a line


def _line(axes: Axes, at: Sequence[Sequence[float] | np.ndarray], colour: str) -> None:
    """A thin line through places given in points."""
    xs, ys = axes.transAxes.inverted().transform(np.array(at) * axes.figure.dpi / POINTS).T
    place: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "zorder": 1.5}
    axes.plot(xs, ys, **place, color=colour, linewidth=0.7, alpha=0.8)
