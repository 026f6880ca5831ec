"""The HTML report of a run: one file that needs nothing else, made from run.json and the tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from experiments.plots import FIGURES, draw_all
from experiments.plots.tables import COLUMNS, read_table
from experiments.report.figures import CAPTIONS, inline_svg
from experiments.report.findings import Finding, change, claims_sentence, findings, treatment_arm
from experiments.report.formatting import brief, interval, number, probability
from experiments.report.limits import limits
from probes.errors import ArtefactError
from probes.files import read_json, write_text

__all__ = ["Finding", "change", "findings", "limits", "write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Figures are drawn anew, so that they never disagree with the tables beside them.

    Raises:
        ArtefactError: run.json or a table is missing or cannot be read.
    """
    run_dir = Path(run_dir)
    run = read_json(run_dir / "run.json")
    if not isinstance(run, dict):
        raise ArtefactError(f"{run_dir / 'run.json'} is not a run's manifest: it holds no object")
    tables = {name: read_table(run_dir, name) for name in COLUMNS}
    seconds = run.get("seconds") or {}
    tables["training"]["seconds"] = [
        seconds.get(f"train/{row.arm}/seed-{row.seed:.0f}", row.seconds)
        for row in tables["training"].itertuples()
    ]
    drawn = {path.stem: path for path in draw_all(run_dir) if path.suffix == ".svg"}
    figures = [
        {
            "name": spec.name,
            "caption": CAPTIONS[spec.name],
            "svg": inline_svg(drawn[spec.name], spec.name, CAPTIONS[spec.name].title),
        }
        for spec in FIGURES
        if spec.name in drawn
    ]
    page = (
        _environment()
        .get_template("template.html.j2")
        .render(
            run=run,
            name=(run.get("config") or {}).get("name", run_dir.name),
            treatment=treatment_arm(tables),
            findings=findings(tables),
            claims_sentence=claims_sentence(tables["claims"]),
            limits=limits(run, tables),
            tables={name: table.to_dict("records") for name, table in tables.items()},
            figures=figures,
            missing=[CAPTIONS[spec.name].title for spec in FIGURES if spec.name not in drawn],
            hashes=_flat(run.get("hashes") or {}),
            configuration=json.dumps(run.get("config"), indent=2, ensure_ascii=False),
            seeds=_count((run.get("config") or {}).get("seeds")),
            minutes=sum(seconds.values()) / 60,
        )
    )
    return write_text(run_dir / "report.html", page)


def _environment() -> Environment:
    # Escaping is on for every template: by file name it would be off for "*.j2".
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        brief=brief, interval=interval, number=number, probability=probability
    )
    return environment


def _count(seeds: Any) -> int:
    """How many seeds a configuration asks for, be it their number or their list."""
    return len(seeds) if isinstance(seeds, list) else int(seeds or 0)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested hashes as one level, keys joined by a slash."""
    flat: dict[str, str] = {}
    for key, inner in value.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        flat |= _flat(inner, name) if isinstance(inner, Mapping) else {name: str(inner)}
    return flat
