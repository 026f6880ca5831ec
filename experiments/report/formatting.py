"""Numbers as a reader sees them: a value and its interval with just as many digits as they bear."""

import math

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def number(value: float, decimals: int = 2) -> str:
    """A number with a proper minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return DASH
    text = f"{value:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval(estimate: float, low: float, high: float) -> str:
    """`0.42 [0.38, 0.46]`; a dash when nothing was measured, and said when no interval was."""
    if not math.isfinite(estimate):
        return DASH
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{number(estimate, _decimals(estimate, estimate))} (no interval)"
    decimals = _decimals(low, high)
    return f"{number(estimate, decimals)} [{number(low, decimals)}, {number(high, decimals)}]"


def probability(value: float) -> str:
    """A p or q value to two digits, never rounded to zero."""
    if not math.isfinite(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def brief(text: str) -> str:
    """A threshold as it is written, a number in it to three digits."""
    try:
        return f"{float(text):.3g}".replace("-", MINUS)
    except ValueError:
        return text


def _decimals(low: float, high: float) -> int:
    """Two; more when the width or a bound near zero would vanish in rounding; one when wide."""
    if high - low >= 5:
        return 1
    for decimals in (2, 3):
        unit = 10.0**-decimals
        shown = all(bound == 0 or abs(bound) >= unit / 2 for bound in (low, high))
        if shown and (high == low or high - low >= 2 * unit):
            return decimals
    return 4
