"""What a run and an audit print when they end."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from experiments.audit import Gate


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


def print_gates(gates: Sequence["Gate"]) -> None:
    """Print every gate of an audit, then what was found where one is missed."""
    shown = Table(title=f"Audit: {sum(gate.holds for gate in gates)} of {len(gates)} gates hold")
    for title in ("gate", "where"):
        shown.add_column(title, overflow="fold")
    for title in ("value", "limit"):
        shown.add_column(title, justify="right")
    shown.add_column("")
    for gate in gates:
        verdict = "holds" if gate.holds else "[bold red]missed[/]"
        value = f"{gate.value:.4g}"
        shown.add_row(gate.what, gate.where, value, gate.limit, verdict)
    console = Console()
    console.print(shown)
    for gate in gates:
        for line in gate.details[:5] if not gate.holds else ():
            console.print(f"{gate.where}: {line}", markup=False, highlight=False)
