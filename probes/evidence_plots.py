"""Pictures of the evidence: an evaluation by layer, a transfer matrix."""

from typing import TYPE_CHECKING

from probes.evidence import Evaluation
from probes.transfer import Transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def evaluation_by_layer(found: Evaluation) -> "Figure":
    """Cross-validated AUROC by layer with its interval, beside every null and floor.

    Bands are 95 %; each null's dashed line is the 99th percentile of its best layer, which is what the
    best layer has to pass.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0.5, color="0.7", linewidth=0.8)
    for (name, null), colour in zip(
        found.nulls.items(), ("tab:gray", "tab:brown", "tab:olive"), strict=False
    ):
        axes.fill_between(found.layers, *null.interval, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(null.quantile(0.99), color=colour, linestyle="--", linewidth=1, label=name)
    for (name, floor), style in zip(found.floors.items(), (":", "-."), strict=False):
        axes.axhline(floor.value, color="tab:red", linestyle=style, linewidth=1.2, label=name)
    curve = found.auroc
    axes.fill_between(found.layers, curve.low, curve.high, color="tab:blue", alpha=0.2, linewidth=0)
    axes.plot(found.layers, curve.value, "o-", color="tab:blue", markersize=3, label="AUROC")
    if found.within_pair is not None:
        pairs = found.within_pair.value
        axes.plot(found.layers, pairs, color="tab:green", linewidth=1.2, label="within pairs")
    chosen = found.selected
    axes.errorbar(
        [found.selected_layer],
        [chosen.value],
        yerr=[[chosen.value - chosen.low], [chosen.high - chosen.value]],
        fmt="D",
        color="black",
        markersize=5,
        capsize=3,
        label="selected layer, other families",
    )
    axes.set(
        xlabel="layer (output of block)",
        ylabel="AUROC, or accuracy within pairs",
        title=f"{found.method}, {found.families} families",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def transfer_map(found: Transfer) -> "Figure":
    """AUROC of every training domain (row) in every tested one (column), intervals in the cells."""
    from matplotlib.figure import Figure

    size = len(found.domains)
    figure = Figure(figsize=(1.6 * size + 1.6, 1.1 * size + 1.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(found.auroc, cmap="RdBu", vmin=0, vmax=1)
    for row in range(size):
        for column in range(size):
            value = found.auroc[row, column]
            axes.text(
                column,
                row,
                f"{value:.2f}\n[{found.low[row, column]:.2f}, {found.high[row, column]:.2f}]",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if abs(value - 0.5) > 0.3 else "black",
            )
    axes.set_xticks(range(size), found.domains)
    axes.set_yticks(range(size), found.domains)
    axes.set(xlabel="tested on", ylabel="trained on", title=f"transfer at layer {found.layer}")
    figure.colorbar(image, label="AUROC", shrink=0.8)
    return figure
