"""The `storyprior` command: thin functions over the packages, one-line errors, exit status 2."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from probes import StorypriorError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does training a language model on fiction change its prior about its own character?",
)


@app.command()
def run(
    preset: Annotated[str, typer.Argument(help="A preset (demo, full), or a YAML or TOML file.")],
    model: Annotated[
        str | None, typer.Option(help="Packaged model, hub id, folder or .gguf.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/NAME if not given.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per trained arm.")] = None,
) -> None:
    """Train the arms, measure and steer them, and write tables, figures and a report.

    Killed at any moment, the same command goes on where it stopped.
    """
    from experiments.config import load_config
    from experiments.console import print_comparison

    config = load_config(preset, model=model, seeds=seeds)
    folder = out or Path("runs") / config.name
    from experiments import pipeline

    path = pipeline.run(config, folder)
    print_comparison(folder)
    typer.echo(path)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A finished run directory.")]) -> None:
    """Draw the figures and write the report of a finished run again."""
    from experiments import pipeline

    typer.echo(pipeline.publish(folder))


@app.command()
def prepare(
    model: Annotated[
        str, typer.Argument(help="A packaged model or a .gguf file.")
    ] = "gemma-3-270m",
) -> None:
    """Convert a packaged or GGUF model into the cache, so that later loads take seconds."""
    from probes.conversion import materialise

    typer.echo(materialise(model))


@app.command()
def doctor() -> None:
    """Say what hardware, dtype, models and backends were found."""
    from experiments.doctor import findings

    width = max(len(name) for name, _ in findings())
    for name, found in findings():
        typer.echo(f"{name:<{width}}  {found}")


def main() -> None:
    """Entry point: deliberate errors become one line on standard error and exit status 2."""
    _be_quiet()
    try:
        app()
    except StorypriorError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"storyprior: {message}\n")
        sys.exit(2)
    except OSError as error:  # a full disk or a lost folder, wherever a library met it
        sys.stderr.write(
            f"storyprior: {error}; free some space or check the folder, then run the command again\n"
        )
        sys.exit(2)


def _be_quiet() -> None:
    """Keep libraries from talking over the progress bar; a user's own settings win."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_MININTERVAL", "1")
    warnings.simplefilter("ignore", FutureWarning)  # libraries speaking to each other
    for name in ("trl", "peft", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
