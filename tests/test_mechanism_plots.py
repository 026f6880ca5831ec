"""Figures of the mechanism show all they should, and are saved with their data."""

import json

import matplotlib
import pytest
import torch

import probes
import steering
from probes.attribution import attribute
from probes.logit_lens import logit_lens
from probes.mechanism_plots import component_map, lens_bars, save_figure
from tests.conftest import TEXTS, tiny_model
from tests.mechanism import LABELS, direction_of, uneven


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_component_map_shows_every_contribution(architecture, tmp_path):
    contrast = attribute(uneven(architecture), TEXTS, direction_of()).difference(LABELS)
    figure = component_map(contrast)
    heads, others, embedding = (axes.images[0] for axes in figure.axes[:3])
    torch.testing.assert_close(torch.tensor(heads.get_array()), contrast.heads)
    torch.testing.assert_close(torch.tensor(others.get_array())[:, 0], contrast.mlps)
    torch.testing.assert_close(torch.tensor(embedding.get_array()).squeeze(), contrast.embedding)
    labels = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert labels == ["MLP"]  # constants are the same in both classes
    for image in (heads, others, embedding):
        low, high = image.get_clim()
        assert low == -high == heads.get_clim()[0]
    assert figure.axes[0].get_xlabel() == "attention head"
    assert figure.axes[0].get_ylabel() == "layer"
    assert "units of the residual stream" in figure.axes[3].get_ylabel()
    picture, data = save_figure(figure, contrast, tmp_path / "sub" / "map.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    stored = json.loads(data.read_text())
    torch.testing.assert_close(torch.tensor(stored["heads"]), contrast.heads)
    assert stored["total"] == float(contrast.total)
    assert sorted(path.name for path in picture.parent.iterdir()) == ["map.json", "map.png"]


def test_a_difference_of_checkpoints_is_drawn_as_one():
    first, second = (tiny_model("llama", seed=seed) for seed in (0, 1))
    a, b = (attribute(model, TEXTS, direction_of()) for model in (first, second))
    figure = component_map((b - a).mean())
    shown = torch.tensor(figure.axes[0].images[0].get_array())
    torch.testing.assert_close(shown, b.mean().heads - a.mean().heads)
    title = "After block 2: mean of 5 texts, one model minus the other"
    assert figure.get_suptitle().split() == title.split()
    bars = lens_bars(logit_lens(second, direction_of()) - logit_lens(first, direction_of()))
    assert bars.get_suptitle() == "villain of layer 2, one model minus the other"


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_long_title_fits_into_the_figure(labels, llama):
    result = attribute(llama, TEXTS, direction_of())
    change = result - result
    figure = component_map(change.mean() if labels is None else change.difference(labels))
    figure.draw_without_rendering()
    (title,) = [text for text in figure.texts if text.get_text() == figure.get_suptitle()]
    box = title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_constants_and_edits_have_columns_where_there_are_any():
    model = uneven("gpt2")
    with steering.steer(model, steering.Add(direction_of(), strength=0.5)):
        mean = attribute(model, TEXTS, direction_of()).mean()
    labels = [label.get_text() for label in component_map(mean).axes[1].get_xticklabels()]
    assert labels == ["MLP", "bias", "edit"]
    assert "L2.edit" in str(mean)


def test_a_few_large_components_do_not_hide_the_rest():
    result = attribute(tiny_model("llama"), TEXTS, direction_of())
    result.mlps[:, 1] = 512.4
    figure = component_map(result.mean())
    assert figure.axes[0].images[0].get_clim()[1] < 250
    assert figure.axes[3]._colorbar.extend == "both"
    assert [text.get_text() for text in figure.axes[1].texts] == ["512"]
    result.mlps[:, 1] = 0
    assert component_map(result.mean()).axes[3]._colorbar.extend == "neither"
    result.mlps[:, 1] = float("nan")
    with pytest.raises(probes.DataError, match="not finite"):
        component_map(result.mean())


def test_lens_bars_have_red_above_blue_and_odd_tokens_are_drawable(llama, recwarn, tmp_path):
    lens = logit_lens(llama, direction_of(), top=4)
    odd = ("$x_1$", "中文", " ", "\u0301", *lens.tokens[4:])
    object.__setattr__(lens, "tokens", odd)
    figure = lens_bars(lens, top=3)
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        [*lens.changes[:3].tolist(), *lens.changes[4:7].flip(0).tolist()]
    )
    assert [label.get_text() for label in axes.get_yticklabels()][:3] == [
        "$x_1$",
        "<4E2D><6587>",
        "␣",
    ]
    assert "logits per unit of strength" in axes.get_xlabel()
    before = dict(matplotlib.rcParams)
    first, data = save_figure(figure, lens, tmp_path / "lens.svg")
    assert dict(matplotlib.rcParams) == before
    again, _ = save_figure(lens_bars(lens, top=3), lens, tmp_path / "again.svg")
    assert first.read_bytes() == again.read_bytes()
    assert json.loads(data.read_text())["raised"][1][0] == "中文"
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    with pytest.raises(probes.DataError, match="must end in"):
        save_figure(figure, lens, tmp_path / "lens.tiff")
    with pytest.raises(probes.DataError, match="at least 1"):
        lens_bars(lens, top=0)
