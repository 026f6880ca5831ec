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


def drawn(run_dir, name):
    spec = next(spec for spec in plots.FIGURES if spec.name == name)
    return spec.draw(spec.data(*(plots.read_table(run_dir, table) for table in spec.tables)))


def overlaps(figure):
    """Pairs of visible texts of a figure whose boxes overlap by more than a point."""
    figure.canvas.draw()
    renderer, point = figure.canvas.get_renderer(), figure.dpi / 72
    texts = [
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip() and inside_ticks(text)
    ]
    boxes = [text.get_window_extent(renderer).padded(-point) for text in texts]
    return [
        (texts[a].get_text(), texts[b].get_text())
        for a in range(len(texts))
        for b in range(a)
        if boxes[a].overlaps(boxes[b])
    ]


def inside_ticks(text):
    """Tick labels outside the axis limits exist but are not drawn."""
    axes = text.axes
    if axes is None:
        return True
    for axis, index in ((axes.xaxis, 0), (axes.yaxis, 1)):
        if text in [tick.label1 for tick in axis.get_major_ticks()]:
            low, high = sorted(axis.get_view_interval())
            return low <= text.get_position()[index] <= high
    return text not in [tick.label2 for tick in axes.xaxis.majorTicks + axes.yaxis.majorTicks]


def test_every_figure_is_written_in_three_forms(run_dir):
    paths = plots.draw_all(run_dir)
    assert [path.name for path in paths] == [
        f"{name}{suffix}" for name in NAMES for suffix in (".svg", ".png", ".csv")
    ]
    assert all(path.stat().st_size > 100 for path in paths)
    assert not [path for path in (run_dir / "figures").iterdir() if path.name.startswith(".")]


def test_drawing_twice_gives_the_same_svg(run_dir, tmp_path):
    before = {name: (run_dir / "figures" / f"{name}.svg").read_bytes() for name in NAMES}
    plots.draw_all(run_dir)
    assert {name: (run_dir / "figures" / f"{name}.svg").read_bytes() for name in NAMES} == before
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
@pytest.mark.parametrize("gap", [0.02, 0.003, 0.0])
def test_no_labels_overlap_when_arms_lie_close(tmp_path, name, gap):
    path = make_run(tmp_path, ALL_ARMS, effect=-3 * gap, half_width=0.02, spread=gap)
    assert overlaps(drawn(path, name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_at_the_edge(tmp_path, name):
    arms = ("base", "story", "an-arm-whose-name-is-longer-than-most", "villain-story")
    figure = drawn(make_run(tmp_path, arms, effect=-0.2, half_width=0.08), name)
    figure.canvas.draw()
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
        names = [f"arm number {number}" for number in range(8)]
        label_points(axes, names, [0.5] * 8, [0.5] * 8, ["#767676"] * 8)
        label_right(axes, names, [1.0] * 8, [0.5] * 8, ["#767676"] * 8)
        assert overlaps(figure) == []


def test_the_users_settings_and_backend_are_left_alone(run_dir):
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    with matplotlib.rc_context({"font.size": 31, "svg.hashsalt": "mine"}):
        figure = drawn(run_dir, "propensity_by_arm")
        assert matplotlib.rcParams["font.size"] == 31
        assert max(text.get_fontsize() for text in figure.findobj(matplotlib.text.Text)) < 12
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


def test_an_unmeasured_table_leaves_its_figure_out(tmp_path):
    path = make_run(tmp_path)
    (path / "figures").mkdir()
    (path / "figures" / "dose_response.svg").write_text("from an earlier run")
    edit_table(path, "dose_response", lambda table: table.iloc[:0])
    assert "dose_response" not in {figure.stem for figure in plots.draw_all(path)}
    assert not (path / "figures" / "dose_response.svg").exists()


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
