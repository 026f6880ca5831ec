"""A `TokenTrace` as coloured text on a web page, and what its pictures share: ranges and captions.

Red is above the centre and blue below. The first token never sets the range of colours: BOS, or
whatever stands in its place, is a sink of attention whose projection dwarfs all others.
"""

import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from probes.errors import DataError
from probes.files import write_text

if TYPE_CHECKING:
    from probes.tracing import TokenTrace

PerLayer = float | Sequence[float] | Tensor
"""One number for all layers, or one for each."""

FULL = 0.62  # opacity of the strongest colour: text on it stays legible on light and on dark paper

STYLE = f"""
.token-trace {{
  color-scheme: light dark; --ink: #1b1f24; --muted: #5d6670; --faint: #d5d9dd; --paper: #fefefe;
  --high: 222 76 32; --low: 44 118 214; background: var(--paper); color: var(--ink);
  padding: 1rem; font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}}
@media (prefers-color-scheme: dark) {{
  .token-trace {{
    --ink: #eef0f2; --muted: #a0a8b0; --faint: #3a4048; --paper: #16191d;
    --high: 226 74 28; --low: 48 120 226;
  }}
}}
.token-trace section {{ max-width: 48rem; margin: 0 auto 1.5rem; }}
.token-trace h2 {{ margin: 0 0 .25rem; font-size: 1rem; }}
.token-trace .legend {{ margin: 0 0 .75rem; color: var(--muted); font-size: .8125rem; }}
.token-trace .legend b {{ font-weight: 400; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.token-trace .ramp {{
  display: inline-block; width: 9rem; height: .8em; margin: 0 .4em; vertical-align: -.08em;
  border: 1px solid var(--faint);
  background: linear-gradient(90deg, rgb(var(--low) / {FULL}), transparent, rgb(var(--high) / {FULL}));
}}
.token-trace .text {{
  margin: 0; line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4;
}}
.token-trace .text span, .token-trace .ramp {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
.token-trace .text span {{ padding: .15em 0; border-radius: 2px; }}
.token-trace .h {{ background: rgb(var(--high) / var(--a)); }}
.token-trace .l {{ background: rgb(var(--low) / var(--a)); }}
.token-trace .text .bos {{ border: 1px dashed var(--muted); color: var(--muted); margin-right: .25em; padding: 0 .2em; }}
.token-trace i {{ color: var(--muted); font-style: normal; font-size: .8em; user-select: none; }}
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One layer as it is drawn: `shown` is `(raw - centre) / scale`, in full colour at ±`limit`."""

    layer: int
    raw: list[float]
    shown: list[float]
    limit: float
    centre: float
    scale: float


def panels(
    trace: "TokenTrace", layer: int | None, centre: PerLayer, scale: PerLayer, limit: float | None
) -> list[Panel]:
    """The layers to draw, in the order of the trace; arguments and errors are those of `TokenTrace.to_html`."""
    columns = range(len(trace.layers)) if layer is None else [trace.column_of(layer)]
    centres = _per_layer(centre, "centre", trace)
    scales = _per_layer(scale, "scale", trace)
    if (scales <= 0).any():
        raise DataError(f"scale {scale!r} must be above zero")
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise DataError(f"limit {limit!r} must be a finite number above zero")
    shown = (trace.projections.double() - centres) / scales
    largest = shown[1:] if len(trace) > 1 else shown
    limits = largest.abs().amax(0) if limit is None else torch.full((len(trace.layers),), limit)
    return [
        Panel(
            trace.layers[column],
            trace.projections[:, column].tolist(),
            shown[:, column].tolist(),
            limits[column].item() or 1.0,
            centres[column].item(),
            scales[column].item(),
        )
        for column in columns
    ]


def _per_layer(value: PerLayer, what: str, trace: "TokenTrace") -> Tensor:
    try:
        values = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        values = values.expand(len(trace.layers)) if values.ndim == 0 else values
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    if values.shape != (len(trace.layers),) or not torch.isfinite(values).all():
        raise DataError(
            f"{what} {value!r} must be a finite number, or one for each of the trace's "
            f"{len(trace.layers)} layers"
        )
    return values


def html_page(
    trace: "TokenTrace",
    path: str | os.PathLike | None,
    layer: int | None,
    centre: PerLayer,
    scale: PerLayer,
    limit: float | None,
) -> str:
    """See `TokenTrace.to_html`."""
    title = html.escape(f"Projections on {called(trace)}")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title>'
        "<style>.token-trace { min-height: 100vh; box-sizing: border-box; }</style></head>"
        f'<body style="margin:0">\n{html_fragment(trace, layer, centre, scale, limit)}</body></html>\n'
    )
    if path is not None:
        write_text(path, page)
    return page


def html_fragment(
    trace: "TokenTrace",
    layer: int | None = None,
    centre: PerLayer = 0.0,
    scale: PerLayer = 1.0,
    limit: float | None = None,
) -> str:
    """One `<div>` with its own style, to be put into any page; refers to nothing outside."""
    sections = [
        f"<section><h2>{html.escape(heading(trace, panel))}</h2>\n{_legend(trace, panel)}"
        f'<p class="text" lang="" dir="auto">{_coloured(trace, panel)}</p></section>\n'
        for panel in panels(trace, layer, centre, scale, limit)
    ]
    return f'<div class="token-trace"><style>{STYLE}</style>\n{"".join(sections)}</div>\n'


def called(trace: "TokenTrace") -> str:
    """The direction in a caption."""
    return f"“{trace.name}”" if trace.name else "a direction"


def heading(trace: "TokenTrace", panel: Panel) -> str:
    """The caption of one layer."""
    return f"Projections on {called(trace)} after block {panel.layer}"


def number(value: float) -> str:
    """Three figures or all before the point, always with a sign."""
    digits = f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
    return digits.replace("-", "−") if value else "0"


def unit(panel: Panel) -> str:
    """What the numbers are, if not plain projections."""
    if (panel.centre, panel.scale) == (0, 1):
        return ""
    sign = "+" if panel.centre < 0 else "−"
    return f"(projection {sign} {abs(panel.centre):.4g}) / {panel.scale:.4g}"


def remarks(trace: "TokenTrace", panel: Panel) -> list[str]:
    """What a reader of one layer's picture has to know besides its scale."""
    beyond = sum(abs(value) > panel.limit for value in panel.shown[trace.bos :])
    return [
        text
        for text, applies in (
            (unit(panel), unit(panel)),
            (f"{beyond} {'token' if beyond == 1 else 'tokens'} beyond the scale", beyond),
            (f"BOS {number(panel.shown[0])}, not on the scale", trace.bos),
        )
        if applies
    ]


def _legend(trace: "TokenTrace", panel: Panel) -> str:
    ramp = f'<b>{number(-panel.limit)}<span class="ramp"></span>{number(panel.limit)}</b>'
    facts = [ramp, *map(html.escape, remarks(trace, panel))]
    return f'<p class="legend">{" · ".join(facts)}</p>\n'


def _coloured(trace: "TokenTrace", panel: Panel) -> str:
    """The rendered text, each character once, in the colour of the token that covers it first."""
    pieces, cursor = [], 0
    for position, (first, last) in enumerate(trace.offsets):
        if first > cursor:  # some tokenizers leave the space between words to nobody
            pieces.append(_visible(trace.rendered[cursor:first]))
        if first == last:
            text = html.escape(trace.tokens[position])
        else:
            text = _visible(trace.rendered[max(first, cursor) : last]) or "<i>·</i>"
        cursor = max(cursor, last)
        pieces.append(_span(trace, panel, position, text))
    return "".join(pieces) + _visible(trace.rendered[cursor:])


def _span(trace: "TokenTrace", panel: Panel, position: int, text: str) -> str:
    value, raw = panel.shown[position], panel.raw[position]
    exact = f"{raw:+.6g}" + (f", shown as {value:+.4g}" if unit(panel) else "")
    title = html.escape(f"{trace.tokens[position]!r}: {exact}")
    if position < trace.bos:
        return f'<span class="bos" title="{title}">{text}</span>'
    opacity = FULL * min(abs(value) / panel.limit, 1)
    side = "h" if value > 0 else "l"
    return f'<span class="{side}" style="--a:{opacity:.3f}" title="{title}">{text}</span>'


def _visible(text: str) -> str:
    """Escaped text in which line ends are seen and control characters do no harm."""
    shown = "".join(
        chr(0x2400 + ord(sign)) if ord(sign) < 32 and sign not in "\t\n" else sign for sign in text
    )
    return html.escape(shown).replace("\n", "<i>↵</i>\n")
