"""Token traces against captures and hooks by hand; their pictures against the numbers in them."""

import copy
import dataclasses
import re
import warnings
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

import probes
import steering
from probes.heatmap import FULL
from probes.tokens import encode
from probes.tracing import TokenTrace, trace_tokens
from tests.conftest import TEXTS, tiny_model, tiny_tokenizer
from tests.test_capture import TOLERANCE, by_hand

TEXT = TEXTS[1]


def direction_at(*layers: int, layer: int | None = None, width: int = 32) -> probes.Direction:
    vectors = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(3))
    return probes.Direction.from_vectors(vectors, layers, layer=layer, name="calm <b>&</b>")


def hooks_of(model: probes.LanguageModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())


def length(text: str) -> int:
    return len(encode(tiny_tokenizer(), [text])[0])


def trace_of(text: str, values, layers=(4,), bos: int = 1) -> TokenTrace:
    """A trace of made-up projections `[token, layer]`, the text cut as the tiny tokenizer cuts it."""
    tokens = encode(tiny_tokenizer(), [text])[0]
    offsets = tokens.offsets[1 - bos :]
    names = tuple(text[a:b] or "<s>" for a, b in offsets)
    return TokenTrace(names, offsets, text, layers, torch.as_tensor(values).float(), bos, "calm")


@pytest.mark.parametrize("side", ["left", "right"])
def test_projections_equal_captures_of_single_tokens(any_model, side):
    direction = direction_at(2, 0)
    trace = trace_tokens(any_model, TEXT, direction)
    spans = trace.offsets[trace.bos :]
    acts = probes.capture(any_model, [TEXT] * len(spans) + [TEXTS[2]], layers=[2, 0],
                          pool=[*spans, (0, 4)], padding_side=side)  # fmt: skip
    assert (trace.layers, trace.bos) == ((2, 0), 1)
    torch.testing.assert_close(
        trace.projections[1:], direction.project(acts)[:-1], rtol=5e-4, atol=2e-4
    )


def test_a_chat_is_traced_as_rendered_and_bos_is_shown(llama):
    direction = direction_at(0, 1, 2, layer=1)
    trace = trace_tokens(llama, [{"role": "user", "content": "Why 🦊?"}], direction)
    assert trace.rendered == "<s>[user] Why 🦊?\n[assistant]"
    assert trace.layers == (1,)
    assert (trace.tokens[0], trace.tokens.count("🦊"), trace.name) == ("<s>", 4, direction.name)
    assert trace.tokens == tuple(trace.rendered[a:b] for a, b in trace.offsets)
    hidden = by_hand(llama, trace.rendered.removeprefix("<s>"))[1]
    torch.testing.assert_close(trace.at(1), hidden @ direction.at(1), **TOLERANCE)


def test_tokens_without_characters_go_by_their_own_name_and_bos_may_be_absent(llama):
    assert trace_tokens(llama, TEXT, direction_at(0)).tokens[0] == "<s>"
    bare = copy.deepcopy(llama.tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trace = trace_tokens(probes.wrap(llama.model, bare), "The  ferry", direction_at(0))
    assert (trace.bos, trace.tokens.count("<s>")) == (0, 0)
    assert [token for token in trace.tokens if "Ġ" in token] == ["Ġ"]


def test_layers_default_to_the_selected_one_or_else_to_all(llama):
    assert trace_tokens(llama, TEXT, direction_at(0, 2)).layers == (0, 2)
    assert trace_tokens(llama, TEXT, direction_at(0, 2, layer=2)).layers == (2,)
    several = trace_tokens(llama, TEXT, direction_at(0, 2, layer=2), layers=[2, 0])
    assert several.layers == (2, 0)
    assert torch.equal(several.at(2), trace_tokens(llama, TEXT, direction_at(0, 2, layer=2)).at(2))
    assert not torch.allclose(several.at(2), several.at(0))


def test_steering_in_force_moves_the_trace_by_its_strength_and_not_at_bos(llama):
    direction = direction_at(0, 1, layer=1)
    before = trace_tokens(llama, TEXT, direction)
    with steering.steer(llama, steering.Add(direction, 2.5, units="raw")):
        during = trace_tokens(llama, TEXT, direction)
    moved = during.projections - before.projections
    torch.testing.assert_close(moved[1:], torch.full_like(moved[1:], 2.5), **TOLERANCE)
    assert moved[0].item() == 0
    assert torch.equal(trace_tokens(llama, TEXT, direction).projections, before.projections)


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_no_hook_stays_after_an_error_in_any_block_and_those_of_others_do(llama, broken):
    llama.blocks[1].register_forward_hook(lambda *_: None)
    before = hooks_of(llama)
    trace_tokens(llama, TEXT, direction_at(0, 1, 2))
    assert hooks_of(llama) == before
    for result, error in ((lambda: 1 / 0, ZeroDivisionError), (lambda: None, probes.ModelError)):
        llama.blocks[broken].forward = lambda *args, result=result, **options: result()
        with pytest.raises(error):
            trace_tokens(llama, TEXT, direction_at(0, 1, 2))
        assert hooks_of(llama) == before


def test_projections_are_made_in_float32_in_a_bfloat16_model_and_no_head_is_computed():
    model = tiny_model("llama", dtype=torch.bfloat16)
    ran = []
    model.model.lm_head.register_forward_hook(lambda *_: ran.append(1))
    trace = trace_tokens(model, TEXT, direction_at(0, 1, 2))
    assert (ran, trace.projections.dtype) == ([], torch.float32)
    hidden = by_hand(model, TEXT)
    wanted = torch.stack([hidden[k].float() @ direction_at(0, 1, 2).at(k) for k in range(3)], 1)
    torch.testing.assert_close(trace.projections, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "direction", "layers", "message"),
    [
        (TEXT, direction_at(0, width=16), None, "width 16 but tiny-llama has 32"),
        (TEXT, direction_at(0, 7), None, "layer 7 is out of range: the model has layers 0 to 2"),
        (TEXT, direction_at(0), 2, "has no layer 2; it holds"),
        ("", direction_at(0), None, "is empty"),
        ([TEXT], direction_at(0), None, "is not a chat"),
        ("word " * 400, direction_at(0), None, "context holds 128"),
    ],
)
def test_what_cannot_be_traced_is_named(llama, text, direction, layers, message):
    with pytest.raises(probes.StorypriorError, match=message):
        trace_tokens(llama, text, direction, layers=layers)


def test_projections_that_are_not_finite_are_named(llama):
    llama.blocks[1].register_forward_hook(lambda m, a, output: output * float("nan"))
    with pytest.raises(probes.DataError, match=r"'<s>'\) at layer 1 is not finite"):
        trace_tokens(llama, TEXT, direction_at(0, 1))


class Page(HTMLParser):
    """What a browser would make of the page: its elements, and the coloured text without our marks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.spans, self.text, self._in = [], [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "meta":
            self._in.append((tag, dict(attrs)))
        if tag == "span" and dict(attrs).get("class") != "ramp":
            self.spans.append({**dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        assert self._in.pop()[0] == tag

    def handle_data(self, data):
        inside = [attrs.get("class") for _, attrs in self._in]
        if "text" in inside and "bos" not in inside and self._in[-1][0] != "i":
            self.text += data
            self.spans[-1]["text"] += data if self._in[-1][0] == "span" else ""


MARKUP = [*"abc <>&\"'/;#\n\t", "—", "🦊", "<script>", "</p>", "&lt;", "-->"]
ELEMENTS = {*("html", "head", "meta", "title", "style", "body"), *("div", "section", "h2", "p", "b", "span", "i")}  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MARKUP), st.integers(0, 2)), min_size=1, max_size=20))
def test_a_page_shows_every_character_once_and_nothing_of_the_text_is_markup(pieces):
    text, offsets = "", [(0, 0)]
    for piece, tokens in pieces:  # of no token, of one, or of two that share it
        offsets += [(len(text), len(text) + len(piece))] * tokens
        text += piece
    names = tuple(text[first:last] or "<eos>" for first, last in offsets)
    values = torch.linspace(-1, 1, len(names))[:, None]
    page = Page(TokenTrace(names, tuple(offsets), text, (0,), values).to_html())
    assert page.text == "<eos>" + text
    assert set(page.tags) <= ELEMENTS
    shown = [span["text"] for span in page.spans if span["text"]]
    assert shown == ["<eos>", *(piece for piece, tokens in pieces if tokens)]
    assert all(repr(t) in span["title"] for t, span in zip(names, page.spans, strict=True))


def test_names_of_directions_and_control_characters_do_no_harm():
    trace = TokenTrace(("a\r\x00",), ((0, 3),), "a\r\x00", (0,), torch.ones(1, 1), name="<script>x")
    assert not [harm for harm in ("<script", "\r", "\x00") if harm in trace.to_html()]


def opacities(page: str) -> list[float]:
    signs = re.findall(r'<span class="([hl])" style="--a:([\d.]+)"', page)
    return [float(opacity) / FULL * (1 if side == "h" else -1) for side, opacity in signs]


def test_bos_is_shown_and_sets_no_range():
    values = [-8000.0, 1.0, -2.0, 4.0]
    trace = trace_of("Rain fell.", torch.tensor(values)[:, None])
    page = trace.to_html()
    assert opacities(page)[:3] == pytest.approx([0.25, -0.5, 1], abs=1e-2)
    assert "−4<span" in page
    assert ">+4<" in page
    assert 'class="bos" title="&#x27;&lt;s&gt;&#x27;: -8000"' in page
    assert "BOS −8,000, not on the scale" in page
    without = trace_of("Rain fell.", torch.tensor([900.0, -2.0, 4.0])[:, None], bos=0).to_html()
    assert opacities(without) == pytest.approx([1, -0.5, 1], abs=1e-2)
    assert "BOS" not in without


def test_centre_scale_and_limit_may_be_one_number_or_one_for_each_layer():
    values = torch.zeros(length("Rain fell."), 2)
    values[1:4] = torch.tensor([[3.0, 30.0], [1.0, 10.0], [2.0, 50.0]])
    trace = trace_of("Rain fell.", values, layers=(4, 9))
    page = trace.to_html(layer=9, centre=[2.0, 10.0], scale=torch.tensor([1.0, 10.0]), limit=2)
    assert opacities(page)[:3] == pytest.approx([1, 0, 1], abs=1e-2)
    assert "1 token beyond the scale" in page
    assert "(projection − 10) / 10" in page
    assert "+50, shown as +4" in page
    both = trace.to_html(centre=2.0)
    assert both.count("<h2>") == 2
    assert opacities(both) == pytest.approx([1, -1, 0, 28 / 48, 8 / 48, 1], abs=1e-2)


def test_a_trace_of_zeros_has_a_picture():
    trace = trace_of("Rain", torch.zeros(length("Rain"), 1))
    assert set(opacities(trace.to_html())) == {0}
    assert trace.plot().axes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 5}, r"layer 5 was not traced; this trace holds \[4\]"),
        ({"scale": 0.0}, "scale 0.0 must be above zero"),
        ({"scale": [1.0, 2.0]}, "one for each of the trace's 1 layers"),
        ({"centre": float("nan")}, "centre nan must be a finite number"),
        ({"centre": "mean"}, "centre 'mean' must be a finite number"),
        ({"limit": -1.0}, "limit -1.0 must be a finite number above zero"),
    ],
)
def test_bad_scales_are_named(options, message):
    trace = trace_of("Rain", torch.ones(length("Rain"), 1))
    for draw in (trace.to_html, trace.plot):
        with pytest.raises(probes.StorypriorError, match=message):
            draw(**options)


def test_one_layer_is_bars_and_several_a_heat_map_of_the_same_numbers():
    text = TEXTS[3] * 3
    count = length(text)
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    values[0] = 1e4
    trace = trace_of(text, values, layers=(4, 9))
    bars = [bar for axes in trace.plot(layer=9).axes for bar in axes.patches]
    np.testing.assert_allclose([bar.get_height() for bar in bars[1:]], values[1:, 1], rtol=1e-5)
    assert len(bars) == count > 48  # on more rows than one
    cells = [axes.images[0].get_array() for axes in trace.plot(limit=2).axes]
    shown = np.ma.concatenate(cells, axis=1)
    assert shown.mask[:, 0].all()
    np.testing.assert_allclose(shown[:, 1:], values[1:].T / 2, rtol=1e-5)


def test_figures_leave_no_state_behind_and_dollar_signs_are_no_formulae(tmp_path):
    values = torch.ones(length("$5 日"), 1)
    trace = dataclasses.replace(trace_of("$5 日", values), name="$\\bad{$")
    with matplotlib.rc_context({"font.size": 31}), warnings.catch_warnings():
        warnings.simplefilter("error")  # such as one for a sign that the font lacks
        for suffix, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
            trace.plot(tmp_path / f"trace.{suffix}")
            assert (tmp_path / f"trace.{suffix}").read_bytes().startswith(start)
        assert matplotlib.rcParams["font.size"] == 31
    assert plt.get_fignums() == []


def test_files_are_whole_or_absent(tmp_path):
    trace = trace_of("Rain", torch.ones(length("Rain"), 1))
    assert trace.to_html(tmp_path / "a" / "t.html") == (tmp_path / "a" / "t.html").read_text()
    (tmp_path / "file").write_text("x")
    for write, name in ((trace.to_html, "t.html"), (trace.plot, "t.png")):
        with pytest.raises(probes.ArtefactError, match="cannot write"):
            write(tmp_path / "file" / name)
    with pytest.raises(probes.DataError, match="suffix must be one of"):
        trace.plot(tmp_path / "t.docx")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "file", "t.html"]


def test_a_trace_too_long_for_a_figure_says_so():
    count, offsets = 20_000, tuple((k, k + 1) for k in range(20_000))
    with pytest.raises(probes.DataError, match="20000 tokens at 1 layers are too many"):
        TokenTrace(("a",) * count, offsets, "a" * count, (0,), torch.ones(count, 1)).plot()
