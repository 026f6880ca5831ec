"""Figures of a run: one function per figure, from a table to a matplotlib `Figure`.

    from experiments import plots
    figure = plots.propensity_by_arm(plots.read_table("runs/demo", "propensity"))

`draw_all` draws them all into a run directory, each as SVG, PNG and the CSV of what is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.behaviour import propensity_by_arm, propensity_with_fold
from experiments.plots.dose import dose_response
from experiments.plots.prior import likelihood_prior, prior_shift
from experiments.plots.representation import auroc_by_layer, persona_plane, persona_points
from experiments.plots.style import ARMS, arm_look, save, style_context
from experiments.plots.tables import COLUMNS, read_table

__all__ = [
    "ARMS",
    "FIGURES",
    "FigureSpec",
    "arm_look",
    "auroc_by_layer",
    "dose_response",
    "draw_all",
    "likelihood_prior",
    "persona_plane",
    "persona_points",
    "prior_shift",
    "propensity_by_arm",
    "propensity_with_fold",
    "read_table",
    "save",
    "style_context",
]


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the report: the tables it reads, what it takes from them, how that is drawn."""

    name: str
    tables: tuple[str, ...]
    data: Callable[..., pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]


def _drawn(name: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What a figure shows of a table: the rows with an estimate, without the mere counts."""
    columns = [c for c in COLUMNS[name] if c not in ("families", "seeds", "permuted_auroc")]
    needed = "auroc" if name == "probe_layers" else "estimate"
    return lambda table: table[columns].dropna(subset=[needed])


#: Every figure, in the order of the report.
FIGURES = (
    FigureSpec(
        "propensity_by_arm", ("propensity", "effects"), propensity_with_fold, propensity_by_arm
    ),
    FigureSpec("prior_shift", ("prior_shift",), _drawn("prior_shift"), prior_shift),
    FigureSpec(
        "likelihood_prior", ("prior_likelihood",), _drawn("prior_likelihood"), likelihood_prior
    ),
    FigureSpec("persona_plane", ("persona_plane",), persona_points, persona_plane),
    FigureSpec("dose_response", ("dose_response",), _drawn("dose_response"), dose_response),
    FigureSpec("auroc_by_layer", ("probe_layers",), _drawn("probe_layers"), auroc_by_layer),
)


def draw_all(run_dir: str | Path) -> list[Path]:
    """Draw every figure of a run into its `figures/`; returns the paths written.

    A table that has columns but no rows was not measured in this run: its figure is left out, and
    one of an earlier drawing is removed.

    Raises:
        ArtefactError: a table is missing or cannot be read.
    """
    folder = Path(run_dir) / "figures"
    read = {name: read_table(run_dir, name) for spec in FIGURES for name in spec.tables}
    paths = []
    for spec in FIGURES:
        data = spec.data(*(read[name] for name in spec.tables))
        if data.empty:
            for suffix in (".svg", ".png", ".csv"):
                (folder / f"{spec.name}{suffix}").unlink(missing_ok=True)
            continue
        paths += save(spec.draw(data), data, folder / spec.name)
    return paths
