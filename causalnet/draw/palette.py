"""Colours and number formats, said once for graphs, plots and the report.

Blue always means "raises the target's logit", orange "lowers it", white is zero: the pair is told apart
under every common colour blindness and in print.  Attention and MLP are told apart by colour *and* marker.
"""

import math

__all__ = ["ATTN", "FADED", "FALLS", "FONT", "GRID", "INK", "MARKER", "MLP", "MUTED", "PAPER", "RISES", "diverging"]
__all__ += ["STREAM", "readable_on", "signed"]

# These are placeholders as well as colours: in a page they are replaced by the colours of its theme, so no
# other colour may equal them.
INK = "#24292e"
GRID = "#d8dee4"
MUTED = "#6e7781"
PAPER = "#fffffe"
RISES = "#0b63a4"
FALLS = "#c2510a"
ATTN = "#00856a"
MLP = "#b0508a"
STREAM = "#8c959f"
# One digit away from MUTED: text on a box must not follow the page's theme, the box does not.
FADED = "#5f6872"
FONT = "Helvetica,Arial,sans-serif"
MARKER = {"attn": "o", "mlp": "s"}

_STOPS = {
    1: ((255, 255, 255), (198, 221, 240), (120, 175, 218), (45, 125, 190), (11, 98, 164)),
    -1: ((255, 255, 255), (252, 224, 198), (246, 178, 120), (226, 118, 48), (194, 80, 10)),
}


def diverging(value: float, largest: float) -> str:
    """Return the colour of ``value`` on a scale from ``-largest`` (orange) over 0 (white) to ``largest`` (blue).

    Values outside the scale take its end; what is not a number is white.

    Examples
    --------
    >>> diverging(0.0, 2.0), diverging(5.0, 2.0), diverging(-2.0, 2.0)
    ('#ffffff', '#0b62a4', '#c2500a')
    """
    if not math.isfinite(value) or largest <= 0:
        return "#ffffff"
    share = min(abs(value) / largest, 1.0)
    stops = _STOPS[1 if value > 0 else -1]
    place = share * (len(stops) - 1)
    low = min(int(place), len(stops) - 2)
    part = place - low
    rgb = (round(a + (b - a) * part) for a, b in zip(stops[low], stops[low + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in rgb)


def readable_on(fill: str) -> str:
    """Return the text colour, dark or white, with the higher contrast on ``fill``.

    Examples
    --------
    >>> readable_on("#ffffff"), readable_on("#0b62a4")
    ('#24292f', '#ffffff')
    """
    channels = [int(fill[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # One digit away from INK: text on a coloured box must not follow the page's theme, the box does not.
    return "#24292f" if (luminance + 0.05) ** 2 > 0.05 * 1.05 * 1.35 else "#ffffff"


def signed(value: float, digits: int = 2) -> str:
    """Format a number with its sign, a true minus and no negative zero.

    Examples
    --------
    >>> signed(-0.304), signed(0.0001), signed(1.5)
    ('−0.30', '0.00', '+1.50')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    if float(text) == 0:
        return text[1:]
    return text.replace("-", "−")
