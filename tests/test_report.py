"""The report: one self-contained file whose sentences agree with its tables."""

import json
import re

import pandas as pd
import pytest

from experiments import plots, report
from experiments.plots import read_table
from experiments.plots.tables import COLUMNS
from experiments.report import change, findings, limits, write_report
from experiments.report.formatting import brief, interval, number, probability
from probes.errors import ArtefactError
from probes.files import read_json
from tests.synthetic_run import ALL_ARMS, edit_table, make_run

HOSTILE = "<script>alert(1)</script>"


def tables_of(run_dir):
    return {name: read_table(run_dir, name) for name in COLUMNS}


def said(run_dir):
    """Headlines and details of a run in one text."""
    return "\n".join(
        f"{finding.headline} {finding.detail}" for finding in findings(tables_of(run_dir))
    )


def edit_manifest(run_dir, change_run):
    path = run_dir / "run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    change_run(run)
    path.write_text(json.dumps(run), encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(make_run(tmp_path_factory.mktemp("run"))).read_text(encoding="utf-8")


def test_the_page_is_complete_and_needs_nothing_else(page):
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert page.count("<svg") == 6
    assert 'name="viewport"' in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:|//)""", page)
    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)", page)
    for part in ("What was found", "Limits", "Claims", "Training", "Perplexity", "demo</pre>"):
        assert part in page


def test_ids_are_unique_and_every_reference_resolves(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page):
        assert (pair[0] or pair[1]) in ids


def test_figures_follow_the_colour_scheme(page):
    body = page[page.index("<svg") :]
    assert "var(--ink)" in body
    assert "#1b1f24" not in body
    assert "#fefefe" not in body


def test_hostile_text_is_escaped(tmp_path, monkeypatch):
    for module in (plots, report):  # one figure will do, and is faster
        monkeypatch.setattr(module, "FIGURES", plots.FIGURES[:1])
    path = make_run(tmp_path, ("base", "story", HOSTILE))
    edit_manifest(path, lambda run: run["model"].update(name=HOSTILE, identity=HOSTILE))
    edit_manifest(path, lambda run: run["config"].update(name=HOSTILE))
    edit_manifest(path, lambda run: run.update(versions={HOSTILE: HOSTILE}, hashes={"a": HOSTILE}))
    edit_table(
        path, "claims", lambda table: table.assign(statement=HOSTILE, note=HOSTILE, verdict=HOSTILE)
    )
    page = write_report(path).read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 10


@pytest.mark.parametrize(
    ("effect", "word", "comparison"),
    [(-0.1, "fell", "lower"), (0.1, "rose", "higher")],
)
def test_sentences_follow_the_sign_of_the_data(tmp_path, effect, word, comparison):
    path = make_run(tmp_path, ALL_ARMS, effect=effect)
    text = said(path)
    assert f"Honeypot propensity {word} under story." in text
    assert f"The villain projection of the self, relative to a person, {word} under story." in text
    assert f"Against villain-story, story had {comparison} honeypot propensity." in text
    assert f"Against plain-story, story had {comparison} honeypot propensity." in text
    assert "Word-matched propensity showed no clear change under story." in text


@pytest.mark.parametrize(
    ("difference", "said_of_it"),
    [(0.3, "raised the propensity"), (-0.3, "lowered the propensity"), (0.0, "did not clearly")],
)
def test_the_steered_effect_is_said_with_its_sign(tmp_path, difference, said_of_it):
    path = make_run(tmp_path)
    table = pd.read_csv(path / "tables" / "dose_response.csv")
    added = table.operation == "add"
    table["difference"] = added * difference * table.strength.fillna(0) / table.strength.max()
    table["difference_low"], table["difference_high"] = (
        table.difference - 0.1,
        table.difference + 0.1,
    )
    table.to_csv(path / "tables" / "dose_response.csv", index=False)
    text = said(path)
    assert f"Adding the villain direction {said_of_it}" in text
    assert "Projecting it out: " in text


def test_an_interval_over_zero_is_said_to_cover_it(tmp_path):
    text = said(make_run(tmp_path, effect=-0.01))
    assert "Honeypot propensity showed no clear change under story." in text
    assert "−0.01 [−0.05, 0.03]" in text
    assert "The interval covers zero" in text
    assert not re.search(r"\b(rose|fell) under story", text)


def test_an_effect_that_villain_stories_share_is_not_called_specific(tmp_path):
    def shared(table):
        rows = (table["measure"] == "propensity") & (table["reference"] == "villain-story")
        table.loc[rows & (table["kind"] == "difference"), ["estimate", "low", "high"]] = (
            -0.01,
            -0.1,
            0.1,
        )
        return table

    path = make_run(tmp_path, effect=-0.1)
    edit_table(path, "effects", shared)
    text = said(path)
    assert "story showed no clear difference in honeypot propensity" in text
    assert "may be due to topic and form" in text


def test_an_uncorrected_effect_is_said_not_to_survive(tmp_path):
    path = make_run(tmp_path, effect=-0.1)
    edit_table(path, "effects", lambda table: table.assign(q=0.3))
    assert "it is not significant" in said(path)


def test_a_missing_interval_gives_no_verdict(tmp_path):
    path = make_run(tmp_path, effect=-0.1)
    edit_table(path, "effects", lambda table: table.assign(low=float("nan"), high=float("nan")))
    text = said(path)
    assert "no interval, so no conclusion" in text
    assert "Honeypot propensity fell" not in text
    assert change(float("nan"), 1.0) == "unknown"


def test_reading_no_better_than_words_is_said(tmp_path):
    path = make_run(tmp_path)
    edit_table(path, "probe_layers", lambda table: table.assign(floor=0.9, floor_high=0.97))
    edit_table(path, "claims", lambda table: table.assign(id=["C1", "C6a", "C10"]))
    assert "ai-villain-persona is read not clearly better than a bag of words." in said(path)
    text = "\n".join(limits(read_json(path / "run.json"), tables_of(path)))
    resting = "the claims that rest on it (C6a), whatever the verdict, may be about wording"
    assert resting in text
    edit_table(path, "probe_layers", lambda table: table.assign(floor=0.5, floor_high=0.51))
    assert "may be about wording" not in "\n".join(
        limits(read_json(path / "run.json"), tables_of(path))
    )


def test_limits_fit_the_run(tmp_path):
    path = make_run(tmp_path)
    edit_table(path, "propensity", lambda table: table.assign(seeds=1, families=6))
    edit_manifest(path, lambda run: run["config"]["honeypots"].update(split="selection"))
    text = "\n".join(limits(read_json(path / "run.json"), tables_of(path)))
    assert "268 million parameters" in text
    assert "trained once" in text
    assert "6 scenario families" in text
    assert "not for conclusions" in text
    assert "no plain-story arm" in text
    assert "Adding and ablating" not in text
    edit_table(path, "dose_response", lambda table: table.assign(families=4, seeds=1))
    text = "\n".join(limits(read_json(path / "run.json"), tables_of(path)))
    assert "measured on 4 scenario families and 1 checkpoint per arm" in text


def test_a_run_with_parts_left_out_still_has_a_report(tmp_path):
    path = make_run(tmp_path, ("base", "refusal"))
    for name in ("dose_response", "claims", "training", "prior_likelihood"):
        edit_table(path, name, lambda table: table.iloc[:0])
    (path / "run.json").write_text("{}", encoding="utf-8")
    page = write_report(path).read_text(encoding="utf-8")
    assert "Not measured in this run: " in page
    assert "under refusal" in page
    assert "No claims were fixed" in page


def test_missing_or_broken_inputs_are_named(tmp_path):
    path = make_run(tmp_path)
    (path / "tables" / "claims.csv").unlink()
    with pytest.raises(ArtefactError, match=r"claims\.csv is missing"):
        write_report(path)
    (path / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"run\.json"):
        write_report(path)
    assert not (path / "report.html").exists()


def test_numbers_have_the_digits_they_bear():
    assert interval(0.4213, 0.3809, 0.4611) == "0.42 [0.38, 0.46]"
    assert interval(-0.0042, -0.0081, -0.0003) == "−0.0042 [−0.0081, −0.0003]"
    assert interval(1234.5, 1200.0, 1300.0) == "1,234.5 [1,200.0, 1,300.0]"
    assert interval(0.5, float("nan"), float("nan")) == "0.50 (no interval)"
    assert interval(float("nan"), 0, 1) == "–"
    assert number(-0.001) == "0.00"
    assert brief("0.980392") == "0.98"
    assert brief("within 2 %") == "within 2 %"
    assert probability(0.0) == "< 0.001"
    assert probability(0.04) == "0.04"
