"""Figures of what the model represents: AUROC by layer, and the plane of the two directions."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots.labels import label_points, label_right
from experiments.plots.style import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    WIDTH,
    add_axes,
    arm_look,
    interval_errors,
    method_look,
    new_figure,
    note,
    padded,
    short,
    styled,
    title_axis,
)

METHOD_NAMES = {"difference_of_means": "difference of means", "logistic": "logistic"}
REASONING = "ethical-reasoning"


@styled
def auroc_by_layer(probe_layers: pd.DataFrame) -> Figure:
    """AUROC of each direction at every layer, with what a direction without content would reach.

    Takes the table `probe_layers`. One panel per direction, one line with its interval per method;
    grey band: the shuffled-label null at each layer; dotted: the null of the maximum over layers;
    dashed: a bag of words. The ringed point is the selected layer, the diamond right of it the
    AUROC there on families that did not take part in the selection.
    """
    directions = list(dict.fromkeys(probe_layers["direction"]))
    methods = probe_layers["method"].nunique()
    panel, head = 135.0, 30.0 + 14.0 * methods
    figure = new_figure(40 + len(directions) * (panel + head))
    lowest, _ = padded([*probe_layers["auroc_low"], *probe_layers["null_low"], 0.45])
    for number, direction in enumerate(directions):
        bottom = 38 + (len(directions) - 1 - number) * (panel + head)
        axes = add_axes(figure, 42, bottom, WIDTH - 92, bottom + panel)
        rows = probe_layers[probe_layers["direction"] == direction]
        axes.set_ylim(max(lowest, 0.0), 1.02)
        axes.set_xlim(rows["layer"].min() - 0.3, rows["layer"].max() + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("AUROC")
        _auroc_panel(axes, rows)
        _auroc_header(axes, direction, rows, head)
        if number == len(directions) - 1:
            axes.set_xlabel("layer")
        else:
            axes.tick_params(labelbottom=False)
    return figure


def _auroc_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """The lines of one direction, over its nulls and its floor."""
    last = rows["layer"].max()
    ceiling = rows["null_max"].max()
    floor, floor_low, floor_high = rows[["floor", "floor_low", "floor_high"]].iloc[0]
    dodge = 0.03 * (last - rows["layer"].min())
    for number, (method, line) in enumerate(rows.groupby("method", sort=False), start=1):
        look = method_look(method)
        line = line.sort_values("layer")
        axes.fill_between(
            line["layer"], line["null_low"], line["null_high"], color=FAINT, alpha=0.6, linewidth=0
        )
        axes.fill_between(
            line["layer"],
            line["auroc_low"],
            line["auroc_high"],
            color=look.colour,
            alpha=0.18,
            linewidth=0,
        )
        axes.plot(line["layer"], line["auroc"], color=look.colour, zorder=3)
        chosen = line[line["selected"]].head(1)
        axes.plot(
            chosen["layer"],
            chosen["auroc"],
            color=look.colour,
            linestyle="none",
            marker="o",
            markersize=7,
            markerfacecolor=PAPER,
            markeredgewidth=1.6,
            zorder=4,
        )
        report = chosen.dropna(subset=["report_auroc"])
        axes.errorbar(
            report["layer"] + number * dodge,
            report["report_auroc"],
            yerr=interval_errors(
                report["report_auroc"], report["report_low"], report["report_high"]
            ),
            fmt="D",
            color=look.colour,
            markersize=4.5,
            elinewidth=1.2,
            zorder=5,
        )
    axes.axhline(ceiling, color=MUTED, linewidth=1, linestyle=":")
    axes.axhline(floor, color=INK, linewidth=1, linestyle="--")
    axes.errorbar(
        last + 0.15,
        floor,
        yerr=interval_errors(floor, floor_low, floor_high),
        fmt="none",
        color=INK,
        elinewidth=1.2,
        zorder=2,
    )
    end = rows[rows["layer"] == last]
    middle = (end["null_low"].min() + end["null_high"].max()) / 2
    names = {"bag of words": floor, "null, best layer": ceiling, "null, 95 % band": middle}
    names = {name: level for name, level in names.items() if pd.notna(level)}  # some have no null
    edge = [axes.get_xlim()[1]] * len(names)
    label_right(axes, list(names), edge, list(names.values()), [MUTED] * len(names), size=8.5)


def _auroc_header(axes: Axes, direction: str, rows: pd.DataFrame, head: float) -> None:
    """Direction, then one line per method: its mark, the selected layer and the held-out AUROC."""
    top = head - 22
    note(axes, direction, (0, 1), (0, top), fontsize=10.5, fontweight="bold")
    for number, (method, line) in enumerate(rows.groupby("method", sort=False), start=1):
        look, level = method_look(method), top - 14 * number
        text = METHOD_NAMES.get(method, method)
        chosen = line[line["selected"]].head(1)
        if len(chosen):
            row = chosen.iloc[0]
            text += f": layer {row['layer']:.0f}"
            if pd.notna(row["report_auroc"]):
                interval = f"[{row['report_low']:.2f}, {row['report_high']:.2f}]"
                text += f", held out {row['report_auroc']:.2f} {interval}"
        note(axes, "◆", (0, 1), (0, level), fontsize=9, color=look.colour)
        note(axes, text, (0, 1), (13, level), fontsize=9)


def persona_points(persona_plane: pd.DataFrame) -> pd.DataFrame:
    """The table `persona_plane` with one row per arm: villain_* and reasoning_* columns.

    The villain direction bears the name of its contrast set, so it is the one that is not
    `ethical-reasoning`.
    """
    reasoning = persona_plane["direction"] == REASONING
    columns = ["estimate", "low", "high"]
    sides = [
        rows.set_index("arm")[columns].add_prefix(prefix)
        for rows, prefix in (
            (persona_plane[~reasoning], "villain_"),
            (persona_plane[reasoning], "reasoning_"),
        )
    ]
    return sides[0].join(sides[1], how="inner").reset_index()


@styled
def persona_plane(points: pd.DataFrame) -> Figure:
    """Each arm's self prompts on the two directions, with both intervals and an arrow from base.

    Takes the table `persona_plane` or what `persona_points` makes of it.
    """
    if "direction" in points.columns:
        points = persona_points(points)
    figure = new_figure(344)
    axes = add_axes(figure, 48, 42, WIDTH - 20, 318)
    axes.set_xlim(padded(points.filter(like="villain_").to_numpy().ravel(), 0.16))
    axes.set_ylim(padded(points.filter(like="reasoning_").to_numpy().ravel(), 0.16))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("villain persona, z of prompts about the self")
    title_axis(axes, "ethical reasoning, z of the same prompts")
    base = points[points["arm"] == "base"]
    avoid = []
    for row in points.itertuples():
        look, at = arm_look(row.arm), (row.villain_estimate, row.reasoning_estimate)
        axes.errorbar(
            *at,
            xerr=interval_errors(at[0], row.villain_low, row.villain_high),
            yerr=interval_errors(at[1], row.reasoning_low, row.reasoning_high),
            fmt="none",
            color=look.colour,
            elinewidth=1,
            alpha=0.45,
            zorder=2,
        )
        axes.plot(
            *at,
            marker=look.marker,
            color=look.colour,
            markersize=7.5,
            markeredgecolor=PAPER,
            zorder=4,
        )
        avoid += [
            ((row.villain_low, at[1]), (row.villain_high, at[1])),
            ((at[0], row.reasoning_low), (at[0], row.reasoning_high)),
        ]
        if row.arm != "base" and len(base):
            start = (base["villain_estimate"].iloc[0], base["reasoning_estimate"].iloc[0])
            axes.annotate(
                "",
                xy=at,
                xytext=start,
                arrowprops={
                    "arrowstyle": "->",
                    "color": look.colour,
                    "linewidth": 1.1,
                    "shrinkA": 5,
                    "shrinkB": 5,
                    "mutation_scale": 9,
                },
                zorder=3,
            )
            avoid.append((start, at))
    label_points(
        axes,
        [short(arm) for arm in points["arm"]],
        points["villain_estimate"],
        points["reasoning_estimate"],
        [arm_look(arm).colour for arm in points["arm"]],
        avoid,
    )
    return figure
