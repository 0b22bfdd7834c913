"""The README: its code runs, its links lead somewhere, its sentences parse."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

from causalnet.demo import model_path
from causalnet.expr import parse

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_lines_run():
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert '"path/to/checkpoint"' in block
    block = block.replace('"path/to/checkpoint"', repr(str(model_path("plain"))))
    shown = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
        warnings.simplefilter("ignore")  # three prompts are few
        exec(compile(block, "README.md", "exec"), {})
    assert "95 % interval" in shown.getvalue()
    assert "n = 3 prompts" in shown.getvalue()


def test_the_do_expressions_parse():
    found = re.findall(r'causalnet do "([^"]+)"', TEXT)
    assert found
    for sentence in found:
        assert str(parse(sentence)) == sentence


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    if not target.startswith("https://"):
        assert (ROOT / target).exists()


def test_pictures_are_there_and_small():
    pictures = [ROOT / one for one in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)]
    assert pictures
    assert all(one.stat().st_size < 300_000 for one in pictures)


def test_commands_exist():
    from causalnet.cli.main import app

    known = {one.name for one in app.registered_commands}
    assert set(re.findall(r"^causalnet (\w+)", TEXT, re.MULTILINE)) <= known
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make (\w[\w-]*)", TEXT)) <= targets
