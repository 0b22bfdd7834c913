"""Reading the pages: their code blocks, what stands below them, and whether an output is the one shown."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]+) -->\s*\Z")
# Possessive, so that a page that differs is found out at once.
_NUMBER = r"[-+−]?\d++(?:[.,]\d++)*+(?:e[-+]?\d++)?+"


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, what it prints (if that is shown), and why it is not run."""

    page: str
    line: int
    language: str
    text: str
    shown: str | None = None
    not_run: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"


def pages():
    """Return the pages: README, CONTRIBUTING and everything under docs that a hand wrote."""
    own = [path for path in DOCS.rglob("*.md") if not {"_generated", "_build"} & set(path.relative_to(DOCS).parts)]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(own)]


def blocks(path):
    """Return the python and console blocks of a page."""
    text = path.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    result = []
    for number, one in enumerate(found):
        language = one["info"].strip()
        if language not in ("python", "console", "sh", "bash", "pycon"):
            continue
        after = found[number + 1] if number + 1 < len(found) else None
        shown = None
        if after and after["info"].strip() == "text" and not text[one.end() : after.start()].strip():
            shown = after["body"]
        why = _NOT_RUN.search(text[: one.start()])
        line = text[: one.start()].count("\n") + 1
        name = path.relative_to(ROOT).as_posix()
        result.append(Block(name, line, language, one["body"], shown, why["why"].strip() if why else ""))
    return result


def difference(shown, printed):
    """Return how an output differs from the one on the page, empty where it does not.

    White space counts once.  ``…`` stands for anything within its line, alone in a line for any lines.  Numbers agree
    to 2 % or, where they are printed with few digits, to two units of the last one.
    """
    lines = [line for line in printed.splitlines() if line.strip()]
    skipping = False
    for expected in filter(str.strip, shown.splitlines()):
        if expected.strip() == "…":
            skipping = True
            continue
        while skipping and lines and line_difference(expected, lines[0]):
            lines.pop(0)
        if not lines:
            return f"{expected!r} is not printed"
        if wrong := line_difference(expected, lines.pop(0)):
            return wrong
        skipping = False
    return "" if skipping or not lines else f"{lines[0]!r} is printed, and not on the page"


def line_difference(shown, printed):
    """Return how one line differs."""
    pattern, numbers = "", []
    for piece in re.findall(rf"{_NUMBER}|…|\s+|[^\s…]", shown.strip()):
        if piece == "…":
            pattern += ".*?"
        elif piece.isspace():
            pattern += r"\s++"
        elif re.fullmatch(_NUMBER, piece):
            pattern += f"({_NUMBER})"
            numbers.append(piece)
        else:
            pattern += re.escape(piece)
    found = re.fullmatch(pattern, printed.strip())
    if found is None:
        return f"the page shows {shown!r}, but what is printed is {printed!r}"
    pairs = zip(numbers, found.groups(), strict=True)
    wrong = [f"{one} on the page, {other} printed" for one, other in pairs if not near(one, other)]
    return f"{printed.strip()}: {'; '.join(wrong)}" if wrong else ""


def near(one, other):
    """Whether two numbers agree as far as a page can promise."""
    if one == other:
        return True
    try:
        a, b = (float(text.replace("−", "-").replace(",", "")) for text in (one, other))
    except ValueError:
        return False
    if not re.search(r"[.e]", one):
        return a == b
    if "e-" in one:  # rounding errors: their size is what is promised
        return abs(a) / 10 < abs(b) < abs(a) * 10
    digits = len(one.split(".")[1]) if "." in one and "e" not in one else 0
    return abs(a - b) <= max(0.02 * abs(a), 2 * 10.0**-digits)
