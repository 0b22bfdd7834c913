"""benchmarks/RESULTS.md: one section for each benchmark, each written by its own script."""

import re
from pathlib import Path

__all__ = ["RESULTS", "put"]

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEAD = "# Measured\n\nEach section is written by the script that it names; no number is entered by hand.\n"


def put(title: str, body: str, path: Path = RESULTS) -> None:
    """Write a section, in place of the one of that title where there is one."""
    text = path.read_text(encoding="utf-8") if path.exists() else _HEAD
    section = f"## {title}\n\n{body.strip()}\n"
    old = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    found = old.search(text)
    text = old.sub(lambda _: section + "\n", text) if found else f"{text.rstrip()}\n\n{section}"
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
