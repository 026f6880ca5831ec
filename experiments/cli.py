"""The `storyprior` command: thin functions over the packages, one-line errors, exit status 2."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes import StorypriorError

if TYPE_CHECKING:
    from tqdm import tqdm

    from experiments.corpora import Document

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
def corpus(
    arm: Annotated[str, typer.Argument(help="A trained arm, e.g. story.")],
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    documents: Annotated[int, typer.Option(help="How many documents.")] = 12_000,
    seed: Annotated[int, typer.Option(help="Of plots and wording.")] = 0,
    generator: Annotated[
        str,
        typer.Option(help="grammar, openai:BASE_URL (any chat-completions server) or hf:MODEL."),
    ] = "grammar",
    model: Annotated[str | None, typer.Option(help="Which model of the endpoint.")] = None,
    concurrency: Annotated[int, typer.Option(help="Documents in work at a time.")] = 8,
    min_score: Annotated[int, typer.Option(help="Accept from this score on, of 10.")] = 6,
    tries: Annotated[int, typer.Option(help="Rounds of writing per document.")] = 4,
) -> None:
    """Write the training corpus of an arm, by grammar or by a language model.

    What a language model has finished is kept: killed or cut off, the same command goes on.
    """
    from tqdm.auto import tqdm

    from experiments import corpora

    with tqdm(total=documents, unit="doc") as bar:
        if generator == "grammar":
            made = corpora.generate(arm, documents, seed=seed)
            corpora.write_documents(out, _counted(made, bar))
        else:
            from experiments.corpora.chat_models import chat_model
            from experiments.corpora.writing import Standards, write_by_model

            corpora.capacity(arm)  # an unknown arm is refused before a model is loaded
            write_by_model(
                chat_model(generator, model),
                arm,
                documents,
                out,
                name=f"{generator} {model or ''}".strip(),
                seed=seed,
                concurrency=concurrency,
                standards=Standards(score=min_score, tries=tries),
                on_document=bar.update,
            )
    typer.echo(out)


def _counted(documents: Iterator["Document"], bar: "tqdm") -> Iterator["Document"]:
    for document in documents:
        yield document
        bar.update()


@app.command()
def audit(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Corpora to audit; the grammar's if none.")
    ] = None,
    documents: Annotated[int, typer.Option(help="Per arm, if no files are given.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the grammar's corpora.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write every gate and its details as JSON.")
    ] = None,
    fluency: Annotated[
        bool, typer.Option(help="Also the gates that need the packaged models.")
    ] = True,
    jobs: Annotated[int, typer.Option(help="Processes; -1 for one on each core.")] = -1,
) -> None:
    """Measure whether corpora and evaluation texts are fit for use; exit status 1 if a gate is missed."""
    from experiments.audit import MODELS, audit, generated, read_corpora
    from experiments.console import print_gates
    from probes.files import write_json

    corpora = read_corpora(files) if files else generated(documents, seed=seed)
    gates = audit(corpora, models=MODELS if fluency else (), jobs=jobs)
    print_gates(gates)
    if out is not None:
        write_json(out, [asdict(gate) for gate in gates])
    if not all(gate.holds for gate in gates):
        raise typer.Exit(1)


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
