"""What a run prints when it ends."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_comparison(folder: Path) -> None:
    """Print arms × propensity, fold reduction and prior shift with their intervals."""
    table = pd.read_csv(folder / "tables" / "comparison.csv")
    shown = Table(title="Honeypot propensity and the prior about oneself, with 95 % intervals")
    shown.add_column("arm")
    for title in ("propensity", "fold reduction", "prior shift (z, self minus person)"):
        shown.add_column(title, justify="right")
    for row in table.to_dict("records"):
        figures = (_with_interval(row, name) for name in ("propensity", "fold", "prior_shift"))
        shown.add_row(row["arm"], *figures)
    Console().print(shown)


def _with_interval(row: dict, name: str) -> str:
    if pd.isna(row[name]):
        return "reference"
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
