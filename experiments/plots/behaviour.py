"""The figure of what the model does: honeypot propensity by arm."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots.style import (
    FAINT,
    MUTED,
    WIDTH,
    add_axes,
    arm_look,
    interval_errors,
    new_figure,
    note,
    padded,
    short,
    styled,
    text_width,
)


def propensity_with_fold(propensity: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """The table `propensity`, and beside each arm its fold reduction against base (`effects`)."""
    fold = effects[
        (effects["measure"] == "propensity")
        & (effects["kind"] == "fold")
        & (effects["reference"] == "base")
    ]
    names = {"estimate": "fold", "low": "fold_low", "high": "fold_high"}
    fold = fold[["arm", *names]].rename(columns=names)
    return propensity[["arm", "estimate", "low", "high"]].merge(fold, on="arm", how="left")


@styled
def propensity_by_arm(table: pd.DataFrame) -> Figure:
    """Honeypot propensity of every arm with its interval; the dashed line is base.

    Takes the table `propensity`, or `propensity_with_fold(propensity, effects)`, which adds the
    fold reduction against base (above 1: lower than base) as a column of numbers.
    """
    row_height, arms = 27.0, [short(arm) for arm in table["arm"]]
    figure = new_figure(row_height * len(table) + 66)
    folds = [_fold_text(row) for row in table.to_dict("records")]
    left = text_width(figure, arms, 9.5) + 16
    heading = "fold reduction vs base"
    column = max(text_width(figure, folds, 9), text_width(figure, [heading], 8))
    column = column if any(folds) else 0.0
    right = WIDTH - column - (22 if column else 14)
    axes = add_axes(figure, left, 40, right, 40 + row_height * len(table))
    _arm_rows(axes, arms)
    axes.set_xlim(padded([*table["low"], *table["high"], *table["estimate"]], 0.08, 0.01))
    axes.set_xlabel("honeypot propensity")
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    base = table[table["arm"] == "base"]
    if len(base):
        axes.axvline(base["estimate"].iloc[0], color=MUTED, linewidth=1, linestyle="--", zorder=1)
    if axes.get_xlim()[0] < 0.5 < axes.get_xlim()[1]:
        axes.axvline(0.5, color=FAINT, linewidth=1, zorder=0.5)
        above = ("data", "axes fraction")
        note(axes, "indifferent", (0.5, 1), (0, 4), above, fontsize=8, color=MUTED, ha="center")
    for level, row in enumerate(table.itertuples()):
        look = arm_look(row.arm)
        axes.errorbar(
            row.estimate,
            level,
            xerr=interval_errors(row.estimate, row.low, row.high),
            fmt=look.marker,
            color=look.colour,
            markersize=7,
            elinewidth=2,
            zorder=3,
        )
        beside = ("axes fraction", "data")
        note(axes, folds[level], (1, level), (12, 0), beside, fontsize=9, va="center")
    if column:
        note(axes, heading, (1, 1), (12, 4), fontsize=8, color=MUTED)
    return figure


def _fold_text(row: dict) -> str:
    fold, low, high = (row.get(name, np.nan) for name in ("fold", "fold_low", "fold_high"))
    if not np.isfinite([fold, low, high]).all():  # nothing to divide, or no interval to trust it by
        return ""
    return f"{fold:.2f}× [{low:.2f}, {high:.2f}]"


def _arm_rows(axes: Axes, arms: list[str]) -> None:
    """One row per arm, the first on top, with a faint line to lead the eye."""
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_yticks(range(len(arms)), arms)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
