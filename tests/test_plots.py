"""Figures: files that hold what is drawn, the same bytes every time, labels that never overlap."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from experiments import plots
from experiments.plots.labels import label_points, label_right, spread
from experiments.plots.style import PAPER, add_axes, new_figure, short, style_context
from probes.errors import ArtefactError
from tests.synthetic_run import ALL_ARMS, edit_table, make_run

NAMES = [spec.name for spec in plots.FIGURES]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with four arms, its figures drawn."""
    path = make_run(tmp_path_factory.mktemp("run"))
    plots.draw_all(path)
    return path


@pytest.fixture(scope="module")
def close_run(tmp_path_factory):
    """All eleven arms within a hundredth of each other."""
    return make_run(
        tmp_path_factory.mktemp("close"), ALL_ARMS, effect=-0.01, half_width=0.02, spread=0.002
    )


@pytest.fixture(scope="module")
def equal_run(tmp_path_factory):
    """Eleven arms without any difference."""
    return make_run(tmp_path_factory.mktemp("equal"), ALL_ARMS, effect=0.0, spread=0.0)


@pytest.fixture(scope="module")
def long_names_run(tmp_path_factory):
    arms = ("base", "story", "an-arm-whose-name-is-longer-than-most", "villain-story")
    return make_run(tmp_path_factory.mktemp("long"), arms, effect=-0.2, half_width=0.08)


def drawn(run_dir, name):
    """One figure of a run."""
    spec = next(spec for spec in plots.FIGURES if spec.name == name)
    return spec.draw(spec.data(*(plots.read_table(run_dir, table) for table in spec.tables)))


def overlaps(figure):
    """Pairs of drawn texts of a figure whose boxes overlap by more than a point."""
    renderer, texts, boxes = figure.canvas.get_renderer(), [], []
    for text in figure.findobj(matplotlib.text.Text):
        if text.get_visible() and text.get_text().strip() and not beyond_the_axis(text):
            texts.append(text.get_text())
            boxes.append(text.get_window_extent(renderer).padded(-figure.dpi / 72))
    return [
        (texts[a], texts[b])
        for a in range(len(texts))
        for b in range(a)
        if boxes[a].overlaps(boxes[b])
    ]


def beyond_the_axis(text):
    """Tick labels outside the limits, and on the far side, exist but are not drawn."""
    if text.axes is None:
        return False
    for axis, index in ((text.axes.xaxis, 0), (text.axes.yaxis, 1)):
        ticks = axis.get_major_ticks()
        if text in [tick.label2 for tick in ticks]:
            return True
        if text in [tick.label1 for tick in ticks]:
            low, high = sorted(axis.get_view_interval())
            return not low <= text.get_position()[index] <= high
    return False


def test_every_figure_is_written_in_three_forms_and_the_same_again(run_dir):
    folder = run_dir / "figures"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    expected = [f"{name}{suffix}" for name in NAMES for suffix in (".svg", ".png", ".csv")]
    assert sorted(before) == sorted(expected)
    assert [path.name for path in plots.draw_all(run_dir)] == expected
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert b"<dc:date>" not in b"".join(before.values())


def test_csv_holds_the_drawn_rows(run_dir):
    for name, table in {
        "prior_shift": "prior_shift",
        "likelihood_prior": "prior_likelihood",
    }.items():
        expected = pd.read_csv(run_dir / "tables" / f"{table}.csv")
        pd.testing.assert_frame_equal(pd.read_csv(run_dir / "figures" / f"{name}.csv"), expected)
    beside = pd.read_csv(run_dir / "figures" / "propensity_by_arm.csv").set_index("arm")
    effects = pd.read_csv(run_dir / "tables" / "effects.csv").query(
        "measure == 'propensity' and kind == 'fold' and reference == 'base'"
    )
    assert beside["fold"].dropna().to_dict() == effects.set_index("arm")["estimate"].to_dict()
    assert np.isnan(beside.loc["base", "fold"])
    plane = pd.read_csv(run_dir / "figures" / "persona_plane.csv")
    assert list(plane["arm"]) == ["base", "refusal", "story", "villain-story"]
    assert {"villain_estimate", "villain_low", "reasoning_high"} <= set(plane.columns)


def test_the_lines_are_at_the_values_of_the_table(run_dir):
    table = plots.read_table(run_dir, "probe_layers")
    axes = drawn(run_dir, "auroc_by_layer").axes[0]
    line = table[(table["direction"] == "ai-villain-persona") & (table["method"] == "logistic")]
    assert any(
        np.array_equal(artist.get_ydata(), line["auroc"].to_numpy()) for artist in axes.lines
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_labels_overlap_when_arms_lie_close(close_run, name):
    assert overlaps(drawn(close_run, name)) == []


@pytest.mark.parametrize("name", ["persona_plane", "prior_shift", "dose_response"])
def test_no_labels_overlap_when_arms_are_equal(equal_run, name):
    assert overlaps(drawn(equal_run, name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_at_the_edge(long_names_run, name):
    figure = drawn(long_names_run, name)
    assert overlaps(figure) == []
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def test_spread_keeps_order_and_distance_and_moves_little():
    assert np.allclose(spread([10, 50, 90], 12, 0, 100), [10, 50, 90])
    close = spread([50, 50.1, 49.9], 12, 0, 100)
    assert np.allclose(np.sort(close), [38, 50, 62])
    assert list(np.argsort(close)) == [2, 0, 1]
    assert spread([99, 100], 12, 0, 100).max() == 100
    assert spread([], 12, 0, 100).size == 0


def test_labels_of_equal_points_are_placed_apart():
    with style_context():
        figure = new_figure(260)
        axes = add_axes(figure, 20, 20, 260, 240)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        names = [f"arm number {number}" for number in range(8)]
        label_points(axes, names, [0.5] * 8, [0.5] * 8, ["#767676"] * 8)
        label_right(axes, names, [1.0] * 8, [0.5] * 8, ["#767676"] * 8)
        assert overlaps(figure) == []


def test_the_users_settings_and_backend_are_left_alone(run_dir):
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    with matplotlib.rc_context({"font.size": 31, "svg.hashsalt": "mine"}):
        figure = drawn(run_dir, "propensity_by_arm")
        assert matplotlib.rcParams["font.size"] == 31
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
        assert max(text.get_fontsize() for text in texts) < 12
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


def test_a_missing_table_is_named(tmp_path):
    path = make_run(tmp_path)
    (path / "tables" / "persona_plane.csv").unlink()
    with pytest.raises(ArtefactError, match=r"persona_plane\.csv is missing"):
        plots.draw_all(path)
    assert not (path / "figures").exists()


def test_a_missing_column_and_a_bad_number_are_named(tmp_path):
    path = make_run(tmp_path)
    edit_table(path, "prior_shift", lambda table: table.drop(columns="low"))
    with pytest.raises(ArtefactError, match=r"prior_shift\.csv lacks the column low"):
        plots.read_table(path, "prior_shift")
    edit_table(path, "propensity", lambda table: table.astype(str).replace("24", "many"))
    with pytest.raises(ArtefactError, match=r"propensity\.csv:2: families is 'many', not a number"):
        plots.read_table(path, "propensity")


def test_an_unmeasured_table_leaves_its_figure_out(tmp_path, monkeypatch):
    path = make_run(tmp_path)
    monkeypatch.setattr(plots, "FIGURES", [spec for spec in plots.FIGURES if "d" in spec.name[:1]])
    (path / "figures").mkdir()
    (path / "figures" / "dose_response.svg").write_text("from an earlier run")
    for rest in ("arm,operation,strength,estimate,low,high\n", "\n"):
        (path / "tables" / "dose_response.csv").write_text(rest)
        assert plots.draw_all(path) == []
    assert not (path / "figures" / "dose_response.svg").exists()


def test_columns_that_a_run_may_lack(tmp_path):
    path = make_run(tmp_path)
    edit_table(path, "dose_response", lambda table: table.drop(columns="perplexity"))
    edit_table(path, "probe_layers", lambda table: table.drop(columns="permuted_auroc"))
    assert len(drawn(path, "dose_response").axes) == 1
    assert len(drawn(path, "auroc_by_layer").axes) == 2


def test_the_random_control_stays_at_its_strength(run_dir):
    table = plots.read_table(run_dir, "dose_response")
    one = table[(table["operation"] != "add-random") | (table["strength"] == -0.4)]
    labels = [text.get_text() for text in plots.dose_response(one).axes[0].texts]
    assert {"base", "story", "base, random", "story, random"} <= set(labels)
    low, high = plots.dose_response(one).axes[0].get_xlim()
    assert low < -0.4 < 0.4 < high < 0.6


def test_names_that_look_like_missing_values_or_formulas_are_names(tmp_path):
    path = make_run(tmp_path, ("base", "null", "a$b$", "story"))
    assert list(plots.read_table(path, "propensity")["arm"]) == ["base", "null", "a$b$", "story"]
    assert set(plots.read_table(path, "dose_response")["operation"]) >= {"none", "ablate"}
    drawn(path, "propensity_by_arm").canvas.draw()


def test_arm_colours_are_fixed_and_legible_on_light_and_dark():
    assert plots.arm_look("my-arm") == plots.arm_look("my-arm")
    assert len({look.colour for look in plots.ARMS.values()}) == len(plots.ARMS)

    def luminance(colour):
        parts = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for look in plots.ARMS.values():
        level = luminance(look.colour) + 0.05
        assert (luminance(PAPER) + 0.05) / level > 2.9
        assert level / (luminance("#16191d") + 0.05) > 2.9


def test_short_keeps_both_ends():
    assert short("story") == "story"
    assert len(short("x" * 50)) == 22
    assert short("story-with-much-more-training-b").endswith("-b")
