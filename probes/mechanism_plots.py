"""Figures of the mechanism: which components write a direction, and which tokens it moves."""

import contextlib
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.contributions import Contributions
from probes.errors import DataError
from probes.files import atomic_path, write_json
from probes.logit_lens import LogitLens, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_INK, _MUTED, _FAINT, _PAPER = "#1b1f24", "#5d6670", "#c9ced4", "#fefefe"
_UP, _DOWN = "#b2182b", "#2166ac"
_SETTINGS = {
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 144,
    "figure.facecolor": _PAPER,
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same shapes on every machine
    "font.size": 9,
    "savefig.facecolor": _PAPER,
    "svg.hashsalt": "storyprior",
    "text.color": _INK,
    "text.parse_math": False,  # a "$" in a token is a dollar sign
    "xtick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}


def component_map(contributions: Contributions, *, title: str = "") -> "Figure":
    """Heads × layers as a heat map, with columns for MLPs, constants, edits and the embedding.

    Colours diverge from near-white at zero: red is towards the concept, blue away from it. Where a
    few components are larger by far than the rest, the range holds 98 of 100, the colour bar ends in
    arrows and, where there is room, the cells outside it bear their figures. Columns of constants and
    of edits are there when one of their figures is not zero.

    Raises:
        DataError: a contribution is not finite.
    """
    heads = contributions.heads.numpy()
    named = {
        "MLP": contributions.mlps.numpy(),
        "bias": contributions.bias.numpy(),
        "edit": contributions.edits.numpy(),
    }
    # What cancels in a difference of classes leaves a trace of rounding.
    trace = 1e-6 * max(abs(value) for _, value in contributions.rows())
    named = {
        name: values
        for name, values in named.items()
        if name == "MLP" or (np.abs(values) > trace).any()
    }
    others = np.stack(list(named.values()), axis=1)
    embedding = contributions.embedding.reshape(1, 1).numpy()
    parts = (heads, others, embedding)
    limit, clipped = _limit(parts)
    depth, n_heads = heads.shape
    widths = [max(1.2, min(0.3 * n_heads, 7.5)), 0.45 * len(named), 0.5]
    with _style():
        figure = _new_figure(max(4.2, 1.7 + sum(widths)), min(9.0, max(2.6, 1.1 + 0.19 * depth)))
        panels = figure.subplots(1, 3, sharey=True, width_ratios=widths)
        images = [_cells(*pair, limit) for pair in zip(panels, parts, strict=True)]
        every = max(1, round(n_heads / 16))
        panels[0].set_xticks(range(0, n_heads, every))
        panels[0].set(xlabel="attention head", ylabel="layer", ylim=(-0.5, depth - 0.5))
        panels[0].set_yticks(range(0, depth, max(1, round(depth / 15))))
        panels[1].set_xticks(range(len(named)), list(named))
        panels[2].set_xticks([0], ["embed"])
        for panel in panels[1:]:
            panel.tick_params(axis="y", length=0)
        # Written once, before block 0: the rest of its column is not zero but nothing.
        panels[2].spines[:].set_visible(False)
        panels[2].add_patch(_frame())
        if clipped and n_heads <= 24:
            for panel, part in zip(panels, parts, strict=True):
                _write_clipped(panel, part, limit)
        ends = "both" if clipped else "neither"
        bar = figure.colorbar(images[0], ax=panels, extend=ends, extendfrac=0.03, aspect=30)
        bar.set_label(f"contribution to {contributions.projection}\n(units of the residual stream)")
        bar.outline.set(linewidth=0)  # type: ignore[operator]
        _head(figure, title or f"After block {contributions.layer}: {contributions.what}")
    return figure


def lens_bars(lens: LogitLens, *, top: int = 10, title: str = "") -> "Figure":
    """The tokens a direction raises most, in red, above those it lowers most, in blue, as bars.

    Raises:
        DataError: `top` is less than 1.
    """
    if top < 1:
        raise DataError(f"top={top} must be at least 1")
    rows = [*lens.raised[:top], *reversed(lens.lowered[:top])]
    names = [_drawable(quoted(token)) for token, _ in rows]
    values = [change for _, change in rows]
    with _style():
        figure = _new_figure(4.4, 0.9 + 0.19 * len(rows))
        axes = figure.add_subplot()
        places = range(len(rows))
        axes.barh(places, values, color=[_UP if value > 0 else _DOWN for value in values])
        axes.axvline(0, color=_MUTED, linewidth=0.8)
        axes.set_yticks(places, names, size=8)
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("logit change (logits per unit of strength)")
        _head(figure, title or lens.what)
    return figure


def save_figure(
    figure: "Figure", shown: Contributions | LogitLens, path: str | os.PathLike
) -> list[Path]:
    """Write a figure (`.png`, `.svg` or `.pdf`) and what it shows beside it as `.json`; both atomically.

    Raises:
        DataError: the suffix is none of these.
        ArtefactError: the folder cannot be written to.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": "storyprior"},
        "svg": {"Date": None, "Creator": "storyprior"},
        "pdf": {"CreationDate": None, "Creator": "storyprior"},
    }
    if kind not in metadata:
        raise DataError(f"{path} must end in .png, .svg or .pdf")
    with _style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=200, metadata=metadata[kind])
    return [path, write_json(path.with_suffix(".json"), shown.to_json())]


def _limit(parts: Sequence[np.ndarray]) -> tuple[float, bool]:
    """Half the range of colours, and whether some components lie outside."""
    sizes = np.abs(np.concatenate([part.ravel() for part in parts]))
    if not np.isfinite(sizes).all():
        raise DataError("a contribution is not finite; attribute again in float32")
    largest, usual = float(sizes.max()), float(np.quantile(sizes, 0.98, method="lower"))
    if 0 < 2 * usual < largest:
        return usual, True
    return largest or 1.0, False


def _cells(axes: "Axes", values: np.ndarray, limit: float) -> "AxesImage":
    axes.tick_params(length=2, labelsize=8)
    for spine in axes.spines.values():
        spine.set(visible=True, color=_FAINT)
    return axes.imshow(
        values, aspect="auto", interpolation="nearest", cmap="RdBu_r", vmin=-limit, vmax=limit
    )


def _frame() -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), 1, 1, fill=False, edgecolor=_FAINT, clip_on=False)


def _write_clipped(axes: "Axes", values: np.ndarray, limit: float) -> None:
    for row, column in np.argwhere(np.abs(values) > limit):
        value = values[row, column]
        figure = f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"
        axes.text(column, row, figure, color=_PAPER, size=6, ha="center", va="center")


def _drawable(text: str) -> str:
    """The text with letters that the font lacks as their code points."""
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else f"<{ord(c):X}>" for c in text)


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """The shared look inside the block; the user's settings are as they were afterwards."""
    import matplotlib.style

    with matplotlib.style.context(["default", _SETTINGS]):
        yield


def _head(figure: "Figure", text: str) -> None:
    """The figure's title, in as many lines as it needs."""
    figure.suptitle(textwrap.fill(text, int(14 * figure.get_figwidth())), fontsize=9)


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure in inches that belongs to no GUI and to no pyplot state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
