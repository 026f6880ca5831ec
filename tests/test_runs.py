"""The whole job on a tiny model: complete, resumable after kill -9, refused where it does not fit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import transformers
import yaml

import probes
from experiments import corpora
from experiments.config import load_config
from experiments.runs import open_run
from tests.conftest import IDS, LLAMA_LIKE, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {
    "name": "tiny",
    "arms": ["base", "refusal", "story", "villain-story"],
    "seeds": 2,
    "resamples": 200,
    "training": {
        "steps": 3, "blocks_per_step": 2, "block_tokens": 64, "learning_rate": 1e-2,
        "lora_rank": 2, "lora_alpha": 4, "warmup_steps": 0, "save_steps": 1,
    },
    "contrasts": {"permutations": 5, "harder": None, "families": 40},
    "honeypots": {"families_per_category": 1, "paraphrases": 2},
    "character": {"families": 3, "descriptions": 4, "stems": 2, "neutral_texts": 10, "held_out_texts": 2},
    "steering": {"strengths": [-0.2, 0.1, 0.2], "random_directions": 1, "seeds": 1, "families_per_category": 1},
}  # fmt: skip
TABLES = {
    "claims", "comparison", "dose_response", "effects", "perplexity", "persona_plane", "prior_likelihood",
    "prior_shift", "probe_layers", "propensity", "propensity_word_matched", "training",
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a tiny model that is large enough for every shipped text, and a configuration."""
    folder = tmp_path_factory.mktemp("runs")
    config = transformers.LlamaConfig(**{**LLAMA_LIKE, "max_position_embeddings": 2048}, **IDS)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**CONFIG, "model": str(folder / "model")}))
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "experiments.cli", *map(str, arguments)]


def storyprior(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


@pytest.fixture(scope="module")
def finished(work):
    done = storyprior("run", work / "tiny.yaml", "--out", work / "whole")
    assert done.returncode == 0, done.stderr
    return work / "whole", done


def tables(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "tables").glob("*.csv")}


def test_a_run_leaves_everything_it_promises(finished):
    folder, done = finished
    assert done.stdout.strip().splitlines()[-1] == str(folder / "report.html")
    assert "villain-story" in done.stdout
    assert set(tables(folder)) == TABLES
    manifest = json.loads((folder / "run.json").read_text())
    assert {"config", "hashes", "claims", "versions", "model", "started", "seconds"} <= set(
        manifest
    )
    assert any(name.startswith("assets/honeypots") for name in manifest["hashes"])
    for arm in ("refusal", "story", "villain-story"):
        for seed in (0, 1):
            assert (
                folder / "checkpoints" / arm / f"seed-{seed}" / "adapter_model.safetensors"
            ).is_file()
    for name in ("ai-villain-persona", "ethical-reasoning"):
        direction = probes.Direction.load(folder / "directions" / f"{name}.safetensors")
        assert direction.layer in direction.layers
    assert len(list((folder / "figures").glob("*.svg"))) >= 5
    assert not list(folder.rglob("*.training"))


def test_every_arm_sees_the_same_tokens_and_steps(finished):
    trained = pd.read_csv(finished[0] / "tables" / "training.csv")
    assert len(trained) == 6
    assert trained.tokens.unique().tolist() == [3 * 2 * 64]
    assert trained.steps.nunique() == 1


def test_effects_of_story_are_given_against_base_and_villain_story(finished):
    effects = pd.read_csv(finished[0] / "tables" / "effects.csv")
    for measure in ("propensity", "prior_projection", "prior_likelihood"):
        rows = effects[
            (effects.measure == measure) & (effects.arm == "story") & (effects.kind == "difference")
        ]
        assert set(rows.reference) == {"base", "refusal", "villain-story"}
        assert ((rows.low <= rows.estimate) & (rows.estimate <= rows.high)).all()
    specific = effects[
        (effects.measure == "propensity")
        & (effects.kind == "difference")
        & (effects.arm == "story")
    ]
    by_reference = specific.set_index("reference").estimate
    villain = effects[
        (effects.measure == "propensity")
        & (effects.kind == "difference")
        & (effects.arm == "villain-story")
    ].estimate.item()
    assert by_reference["villain-story"] == pytest.approx(by_reference["base"] - villain, abs=1e-5)


def test_a_finished_run_is_not_done_again(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (folder / "units").rglob("*.json")}
    again = storyprior("run", folder.parent / "tiny.yaml", "--out", folder)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "units").rglob("*.json")} == before


def kill_when(arguments: list[str], reached) -> None:
    """Start a command and kill -9 it as soon as `reached()`."""
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_in_training_and_in_evaluation_it_ends_with_the_same_tables(finished, work):
    folder = work / "killed"
    again = command("run", work / "tiny.yaml", "--out", folder)
    scratch = folder / "checkpoints" / "story" / ".seed-0.training"
    kill_when(again, lambda: (scratch / "checkpoint-1" / "trainer_state.json").exists())
    assert not (folder / "units" / "train" / "story" / "seed-0.json").exists()
    kill_when(again, lambda: (folder / "units" / "train" / "story" / "seed-0.json").exists())
    assert not (folder / "units" / "measure" / "story" / "seed-0.json").exists()
    assert not (folder / "report.html").exists()
    assert subprocess.run(again, cwd=ROOT, capture_output=True).returncode == 0
    assert tables(folder) == tables(finished[0])


def test_the_report_can_be_made_again(finished):
    folder, _ = finished
    first = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert storyprior("report", folder).returncode == 0
    assert (folder / "report.html").read_text() == first


def test_a_directory_of_another_configuration_is_refused(finished, work):
    folder, _ = finished
    refused = storyprior("run", work / "tiny.yaml", "--out", folder, "--seeds", 3)
    assert refused.returncode == 2
    assert "another configuration (seeds differ); choose another --out" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "there is no preset 'nothing'; use one of demo, full"),
        (["run", "absent.toml"], "absent.toml does not exist"),
        (["run", "{work}/bad.yaml"], "training.steps"),
        (
            ["run", "{work}/tiny.yaml", "--model", "no/model", "--out", "{work}/new"],
            "unknown model 'no/model'",
        ),
        (["run", "{work}/tiny.yaml", "--out", "{work}/model"], "holds no run"),
        (["run", "{work}/tiny.yaml", "--out", "/proc/nowhere"], "cannot write"),
        (["report", "{work}/nowhere"], "nowhere"),
        (["prepare", "nothing.gguf"], "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_two(work, arguments, message):
    (work / "bad.yaml").write_text(yaml.safe_dump({"training": {"steps": 0}}))
    done = storyprior(*(argument.format(work=work) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_killed_write_leaves_behind_is_no_obstacle(tmp_path, work):
    config = load_config(str(work / "tiny.yaml"))
    folder = tmp_path / "run"
    (folder / "units" / "measure").mkdir(parents=True)
    (folder / ".run.json.x.json").write_text("")
    (folder / "units").rename(tmp_path / "units")
    with open_run(folder, config) as run:
        run.unit("measure/a", lambda: [1])
        (folder / "units" / "measure" / ".a.json.y.json").write_text("")
        run.finish()
        assert list(run.manifest()["seconds"]) == ["measure/a"]


def test_a_figure_that_is_not_finite_is_named(tmp_path, work):
    with open_run(tmp_path / "run", load_config(str(work / "tiny.yaml"))) as run:
        with pytest.raises(probes.DataError, match=r"measure/a\.json: a figure is NaN or infinite"):
            run.unit("measure/a", lambda: [float("nan")])
        assert not run.is_done("measure/a")


def test_a_resumed_run_needs_the_same_libraries(tmp_path, work):
    config = load_config(str(work / "tiny.yaml"))
    with open_run(tmp_path / "run", config):
        pass
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    with (
        pytest.raises(probes.ArtefactError, match=r"begun with torch 1\.0"),
        open_run(tmp_path / "run", config),
    ):
        pass


def test_a_run_of_the_base_alone_has_tables_and_a_report(work):
    values = {**CONFIG, "model": str(work / "model"), "arms": ["base"]}
    values["steering"] = {**CONFIG["steering"], "arms": ["base"]}
    (work / "alone.yaml").write_text(yaml.safe_dump(values))
    done = storyprior("run", work / "alone.yaml", "--out", work / "alone")
    assert done.returncode == 0, done.stderr
    assert (work / "alone" / "report.html").is_file()
    dose = pd.read_csv(work / "alone" / "tables" / "dose_response.csv")
    untouched = dose[dose.operation == "none"].iloc[0]
    assert (untouched.difference, untouched.difference_low, untouched.difference_high) == (0, 0, 0)


@pytest.mark.parametrize("preset", ["demo", "full"])
def test_the_corpora_are_large_enough_for_the_presets(preset):
    training = load_config(preset).training
    needed = training.steps * training.blocks_per_step * training.block_tokens
    for arm in corpora.ARMS:
        words = [len(document.text.split()) for document in corpora.generate(arm, 300)]
        # No tokenizer gives fewer tokens than words.
        assert corpora.capacity(arm) * sum(words) / len(words) > needed


def test_two_processes_do_not_share_a_run(work, tmp_path):
    config = load_config(str(work / "tiny.yaml"))
    second = open_run(tmp_path / "run", config)
    with (
        open_run(tmp_path / "run", config),
        pytest.raises(probes.ArtefactError, match="another process"),
        second,
    ):
        pass


def test_changed_weights_are_noticed_on_resume(tmp_path, work):
    config = load_config(str(work / "tiny.yaml"))
    with open_run(tmp_path / "run", config) as run:
        run.record_model({"name": "m", "identity": "a"})
        run.record_model({"name": "m", "identity": "a"})
        with pytest.raises(probes.ArtefactError, match="other weights"):
            run.record_model({"name": "m", "identity": "b"})


def test_configurations_in_toml_and_their_mistakes(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('model = "x"\n[training]\nsteps = 7\n')
    config = load_config(str(path), seeds=3, model=None)
    assert (config.name, config.model, config.seeds, config.training.steps) == ("mine", "x", 3, 7)
    for text, message in (
        ("seeds = 'many'", "seeds"),
        ("speed = 3", "speed"),
        ('arms = ["base", "poetry"]', "unknown arm 'poetry'"),
        ('arms = ["base", "refusal"]', "arm 'story' is needed"),
        ("seeds = ", "cannot be parsed"),
        ("[steering]\nstrengths = [nan]", "steering.strengths"),
        ("[steering]\nstrengths = [0.1, 0.1]", "lists a value twice"),
    ):
        path.write_text(text)
        with pytest.raises(probes.StorypriorError, match=message):
            load_config(str(path))


def test_the_doctor_names_device_dtype_and_models():
    done = storyprior("doctor")
    assert done.returncode == 0
    for word in ("device", "dtype", "gemma-3-270m", "transformer-lens"):
        assert word in done.stdout
