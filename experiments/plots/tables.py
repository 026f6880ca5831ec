"""Reading the tables of a run: the columns each must have, and one clear error if it has not."""

from pathlib import Path

import pandas as pd

from probes.errors import ArtefactError

_EFFECT = ("estimate", "low", "high")
_MOVED = ("difference", "difference_low", "difference_high")

#: The columns that figures and report read, by table.
COLUMNS = {
    "probe_layers": (
        *("direction", "method", "layer", "auroc", "auroc_low", "auroc_high"),
        *("null_low", "null_high", "null_max", "floor", "floor_low", "floor_high"),
        *("selected", "report_auroc", "report_low", "report_high", "permuted_auroc"),
    ),
    "propensity": ("arm", *_EFFECT, "families", "seeds", "paraphrases"),
    "effects": ("measure", "arm", "reference", "kind", *_EFFECT, "p", "q", "families", "seeds"),
    "persona_plane": ("arm", "direction", *_EFFECT),
    "prior_shift": ("arm", "subject", *_EFFECT),
    "prior_likelihood": ("arm", "stem", *_EFFECT),
    "perplexity": ("arm", *_EFFECT),
    "dose_response": (
        *("arm", "operation", "strength", *_EFFECT),
        *("perplexity", "families", "seeds", *_MOVED),
    ),
    "claims": ("id", "statement", "verdict", *_EFFECT, "threshold", "note"),
    "training": (
        *("arm", "seed", "steps", "tokens", "documents", "loss_first", "loss_last", "seconds"),
    ),
    "comparison": (
        *("arm", "propensity", "propensity_low", "propensity_high"),
        *("fold", "fold_low", "fold_high"),
        *("prior_shift", "prior_shift_low", "prior_shift_high"),
    ),
}

#: Columns that a table may do without; they are then empty.
OPTIONAL = {
    "probe_layers": {"permuted_auroc"},
    "dose_response": {"perplexity", "families", "seeds", *_MOVED},
    "training": {"seconds"},
}

_TEXT = {"arm", "direction", "method", "measure", "reference", "kind", "subject", "stem"} | {
    *("operation", "id", "statement", "verdict", "note"),
}
_FREE = {"threshold", "selected"}  # threshold may be words; selected is a truth value


def read_table(run_dir: str | Path, name: str) -> pd.DataFrame:
    """One table of a run, its number columns as floats, in the order of the file.

    Raises:
        ArtefactError: the file or a column is missing, or a cell is not the number it should be.
    """
    path = Path(run_dir) / "tables" / f"{name}.csv"
    try:
        # Only an empty cell is missing: an operation may be called "none", an arm "null".
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing; finish the run with `storyprior run`") from error
    except pd.errors.EmptyDataError:  # what pandas writes for a table without any row
        table = pd.DataFrame(columns=COLUMNS[name], dtype=str)
    except (OSError, ValueError) as error:  # pandas' parser errors and bad UTF-8 are ValueErrors
        raise ArtefactError(f"{path} cannot be read as CSV: {error}") from error
    for column in OPTIONAL.get(name, set()).difference(table.columns):
        table[column] = ""
    missing = [column for column in COLUMNS[name] if column not in table.columns]
    if missing:
        raise ArtefactError(
            f"{path} lacks the column {missing[0]}; it has {', '.join(table.columns)}"
        )
    for column in COLUMNS[name]:
        if column == "selected":
            table[column] = table[column].str.lower().isin(["true", "1", "1.0"])
        elif column not in _TEXT | _FREE:
            table[column] = _numbers(table[column], path)
    return table


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """A column of text as floats; an empty cell becomes NaN."""
    numbers = pd.to_numeric(column.replace("", "nan"), errors="coerce")
    wrong = numbers.isna() & ~column.str.strip().str.lower().isin(["", "nan"])
    if wrong.any():
        row = int(wrong.idxmax())
        raise ArtefactError(f"{path}:{row + 2}: {column.name} is {column[row]!r}, not a number")
    return numbers.astype(float)
