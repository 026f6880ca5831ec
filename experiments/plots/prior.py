"""Figures of the prior about oneself, always beside the third person."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.plots.style import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    POINTS,
    WIDTH,
    add_axes,
    arm_look,
    inner_ticks,
    interval_errors,
    new_figure,
    note,
    padded,
    short,
    styled,
    text_width,
)

PERSON, CONTRAST = "person", "self minus person"
_MARKERS = ("o", "s", "^", "v", "P")


@styled
def prior_shift(table: pd.DataFrame) -> Figure:
    """Shift of the villain projection against base: subjects left, self minus person right.

    Takes the table `prior_shift`. The difference is the estimand: what moves for a person as well
    is not about the model's own character.
    """
    unit = "villain projection, shift of z against base"
    return _self_and_person(table, "subject", unit, shifts=True)


@styled
def likelihood_prior(table: pd.DataFrame) -> Figure:
    """Villain minus principled likelihood: stems left, self minus person right; dashed is base.

    Takes the table `prior_likelihood`, in nats per token, corrected by a neutral stem.
    """
    unit = "villain minus principled, nats per token"
    return _self_and_person(table, "stem", unit, shifts=False)


def _self_and_person(table: pd.DataFrame, column: str, unit: str, shifts: bool) -> Figure:
    """Two panels with one row per arm: every subject on its own line, and self minus person.

    Shifts are read against zero, on one scale in both panels; levels against that of base.
    """
    arms = list(dict.fromkeys(table["arm"]))
    subjects = [name for name in dict.fromkeys(table[column]) if name != CONTRAST]
    subjects.sort(key=lambda name: name == PERSON)  # the person last, below the self
    row_height = max(30.0, 8.5 * len(subjects) + 10)
    bottom, top = 42.0, 42.0 + row_height * len(arms)
    figure = new_figure(top + 42)
    left = text_width(figure, [short(arm) for arm in arms], 9.5) + 12
    middle = (left + WIDTH - 14) / 2
    panels = [
        add_axes(figure, left, bottom, middle - 11, top),
        add_axes(figure, middle + 11, bottom, WIDTH - 14, top),
    ]
    for panel, title in zip(panels, ("each subject", CONTRAST), strict=True):
        rows = table if shifts else table[(table[column] == CONTRAST) == (title == CONTRAST)]
        seen = [*rows["low"], *rows["high"], *rows["estimate"], *([0.0] if shifts else [])]
        panel.set_xlim(padded(seen, 0.06))
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0, pad=5)
        panel.spines["left"].set_visible(False)
        room = panel.get_position().width * WIDTH
        panel.set_xticks(inner_ticks(panel.get_xlim(), max(int(room / 42), 1)))
        if panel.get_xlim()[0] < 0 < panel.get_xlim()[1]:
            panel.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
        for level in range(1, len(arms)):
            panel.axhline(level - 0.5, color=FAINT, linewidth=0.5, zorder=0)
        # Flush with the outer edge: beside long names the right panel is narrower than its title.
        side, align = (1, "right") if title == CONTRAST else (0, "left")
        note(panel, title, (side, 1), (0, 22), ha=align, fontsize=9.5, fontweight="bold")
    panels[0].set_yticks(range(len(arms)), [short(arm) for arm in arms])
    panels[1].set_yticks([])
    figure.text(middle / WIDTH, 0.5 * bottom / (top + 42), unit, ha="center", va="top")
    base = table[(table["arm"] == "base") & (table[column] == CONTRAST)]
    if len(base) and not shifts:
        level = base["estimate"].iloc[0]
        panels[1].axvline(level, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    for row in table.to_dict("records"):
        _draw_row(panels, row, row[column], subjects, arms.index(row["arm"]))
    _subject_key(figure, subjects, left, top + 13)
    return figure


def _draw_row(panels: list[Axes], row: dict, subject: str, subjects: list[str], level: int) -> None:
    """One estimate: the contrast on the right, a subject on its own line of the left panel."""
    look = arm_look(row["arm"])
    style: dict[str, Any] = {"linestyle": "none", "zorder": 3}
    if subject == CONTRAST:
        style |= {"marker": look.marker, "color": look.colour, "markersize": 7, "elinewidth": 2}
        offset = 0.0
    else:
        style |= _subject_style(subjects, subject, look.colour) | {"elinewidth": 1.1}
        offset = (subjects.index(subject) - (len(subjects) - 1) / 2) * 0.72 / len(subjects)
    errors = interval_errors(row["estimate"], row["low"], row["high"])
    panel = panels[subject == CONTRAST]
    panel.errorbar(row["estimate"], level + offset, xerr=errors, **style)


def _subject_style(subjects: list[str], subject: str, colour: str) -> dict[str, Any]:
    """Mark of a subject; the person, against whom the self is read, is hollow and grey."""
    if subject == PERSON:
        return {"marker": "D", "markersize": 5, "color": MUTED, "markerfacecolor": PAPER}
    marker = _MARKERS[subjects.index(subject) % len(_MARKERS)]
    return {"marker": marker, "markersize": 5, "color": colour}


def _subject_key(figure: Figure, subjects: list[str], left: float, level: float) -> None:
    """The mark and the name of each subject, in one line that starts at a place in points."""
    y = level / (figure.get_figheight() * POINTS)
    for subject in subjects:
        style = _subject_style(subjects, subject, INK)
        figure.add_artist(Line2D([(left + 4) / WIDTH], [y], linestyle="none", **style))
        figure.text((left + 11) / WIDTH, y, subject, fontsize=8.5, va="center_baseline")
        left += 21 + text_width(figure, [subject], 8.5)
