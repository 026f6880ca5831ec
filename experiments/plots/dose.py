"""The figure of cause: propensity while a direction, or a random one, is added or removed."""

from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from experiments.plots.labels import Segment, label_points, label_right
from experiments.plots.style import (
    FAINT,
    PAPER,
    WIDTH,
    add_axes,
    arm_look,
    interval_errors,
    new_figure,
    padded,
    short,
    styled,
    text_width,
    title_axis,
)

_DOSED = ("none", "add")


@styled
def dose_response(table: pd.DataFrame) -> Figure:
    """Propensity against the strength of the added direction; the ablation apart on the left.

    Takes the table `dose_response`. Hollow points: a random direction at the same strength, set a
    little aside. Where perplexity was measured, a second panel shows what the dose costs.
    """
    rows = _placed(table)
    guard = rows["perplexity"].notna().any()
    arms = list(dict.fromkeys(rows["arm"]))
    figure = new_figure(356 if guard else 256)
    right = WIDTH - text_width(figure, [short(arm) for arm in arms], 9) - 22
    bottom = 142 if guard else 42
    panels = [add_axes(figure, 48, bottom, right, bottom + 190)]
    panels[0].set_ylim(padded([*rows["low"], *rows["high"], *rows["estimate"]], 0.08))
    title_axis(panels[0], "honeypot propensity")
    if guard:
        panels.append(add_axes(figure, 48, 42, right, 116))
        panels[0].tick_params(labelbottom=False)
        _perplexity_axis(panels[1], rows["perplexity"].dropna())
    drawn = _strength_axis(panels, rows)
    for arm in arms:
        of_arm = rows[rows["arm"] == arm]
        dosed = of_arm["operation"].isin(_DOSED)
        drawn += _line(panels, arm, of_arm[dosed].sort_values("x"))
        drawn += _points(panels, arm, of_arm[~dosed])
    _label(panels[0], rows, drawn)
    return figure


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with `x`, where they are drawn: at their strength, beside it, or left of all."""
    untouched = table["operation"] == "none"
    rows = table.assign(x=table["strength"].mask(untouched, 0.0))
    low, high = rows["x"].min(), rows["x"].max()
    span = (high - low) or 1.0
    order = rows["arm"].map({arm: k for k, arm in enumerate(dict.fromkeys(rows["arm"]))})
    rows["x"] += (rows["operation"] == "add-random") * 0.025 * span * (order + 1)
    removed = rows["operation"] == "ablate"
    rows["x"] = rows["x"].mask(removed, low - 0.24 * span + 0.05 * span * (order - order.mean()))
    return rows.dropna(subset=["x", "estimate"])


def _strength_axis(panels: list[Axes], rows: pd.DataFrame) -> list[Segment]:
    """Strengths along the bottom, the ablation left of them; returns the line between."""
    removed = rows["operation"] == "ablate"
    strengths = rows["strength"][~removed].fillna(0.0)
    low, high = float(strengths.min()), float(strengths.max())
    margin = 0.05 * ((high - low) or 1.0)
    ticks: list[float] = []
    for strength in sorted(set(strengths)):  # the measured ones, as far as there is room
        if not ticks or strength - ticks[-1] > 2.8 * margin:
            ticks.append(strength)
    labels = [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]
    left, border = low, low - 2.4 * margin
    if removed.any():
        left = rows["x"].min()
        ticks, labels = [rows["x"][removed].mean(), *ticks], ["ablated", *labels]
    for panel in panels:
        panel.set_xlim(left - margin, max(high, rows["x"].max()) + margin)
        panel.set_xticks(ticks, labels)
        panel.axvline(0, color=FAINT, linewidth=1, zorder=0.5)
        if removed.any():
            panel.axvline(border, color=FAINT, linewidth=1, linestyle=":")
    panels[-1].set_xlabel("strength, in mean residual norms")
    bottom, top = panels[0].get_ylim()
    return [((border, bottom), (border, top))] if removed.any() else []


def _line(panels: list[Axes], arm: str, rows: pd.DataFrame) -> list[Segment]:
    """One arm untouched and at every strength, joined, with the band of its intervals."""
    look = arm_look(arm)
    panels[0].fill_between(
        rows["x"], rows["low"], rows["high"], color=look.colour, alpha=0.16, linewidth=0
    )
    for panel, column in zip(panels, ("estimate", "perplexity"), strict=False):
        seen = rows.dropna(subset=[column])
        panel.plot(
            seen["x"],
            seen[column],
            color=look.colour,
            marker=look.marker,
            markersize=5,
            zorder=3,
        )
    return list(pairwise(zip(rows["x"], rows["estimate"], strict=True)))


def _points(panels: list[Axes], arm: str, rows: pd.DataFrame) -> list[Segment]:
    """Ablated (filled) and randomly steered (hollow) checkpoints with their intervals."""
    look = arm_look(arm)
    for row in rows.itertuples():
        face = PAPER if row.operation == "add-random" else look.colour
        panels[0].errorbar(
            row.x,
            row.estimate,
            yerr=interval_errors(row.estimate, row.low, row.high),
            fmt=look.marker,
            color=look.colour,
            markerfacecolor=face,
            markersize=6,
            elinewidth=1.4,
            zorder=4,
        )
        for panel in panels[1:]:
            panel.plot(
                row.x,
                row.perplexity,
                marker=look.marker,
                color=look.colour,
                markerfacecolor=face,
                markersize=5,
                zorder=4,
            )
    return [((row.x, row.low), (row.x, row.high)) for row in rows.itertuples()]


def _label(axes: Axes, rows: pd.DataFrame, drawn: list[Segment]) -> None:
    """Name every line at its right end, and one random point per arm where there is room."""
    dosed = rows[rows["operation"].isin(_DOSED)]
    ends = dosed.loc[dosed.groupby("arm", sort=False)["x"].idxmax()]
    colours = [arm_look(arm).colour for arm in ends["arm"]]
    label_right(axes, [short(arm) for arm in ends["arm"]], ends["x"], ends["estimate"], colours)
    random = rows[rows["operation"] == "add-random"]
    strongest = random["strength"].abs().groupby(random["arm"], sort=False).idxmax()
    random = random.loc[strongest]
    names = [f"{short(arm)}, random" for arm in random["arm"]]
    colours = [arm_look(arm).colour for arm in random["arm"]]
    label_points(axes, names, random["x"], random["estimate"], colours, drawn, size=8.5)


def _perplexity_axis(axes: Axes, values: pd.Series) -> None:
    """A short axis for the cost of a dose, logarithmic when the cost is a multiple."""
    title_axis(axes, "perplexity")
    if values.min() <= 0 or values.max() / values.min() <= 5:
        axes.set_ylim(padded(values, 0.12))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        return
    low, high = np.log10(values.min()) - 0.1, np.log10(values.max()) + 0.1
    steps = (1,) if high - low > 1.7 else (1, 2, 5)
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    axes.set_yscale("log")
    axes.set_ylim(10**low, 10**high)
    axes.set_yticks([tick for tick in ticks if 10**low <= tick <= 10**high])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
