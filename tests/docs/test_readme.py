"""The README: its sentences parse, its pictures are small, its speeds are the measured ones."""

import re

from docs_reading import ROOT, blocks

from causalnet.expr import parse

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")


def test_a_newcomer_needs_five_lines():
    (block,) = (one for one in blocks(ROOT / "README.md") if one.language == "python")
    lines = [line for line in block.text.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 5


def test_the_do_expressions_parse():
    found = re.findall(r'causalnet do "([^"]+)"', TEXT)
    assert found
    for sentence in found:
        assert str(parse(sentence)) == sentence


def test_pictures_are_there_and_small():
    pictures = [ROOT / one for one in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)]
    assert pictures
    assert all(one.stat().st_size < 300_000 for one in pictures)


def test_speeds_are_those_that_were_measured():
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in re.findall(r"^\|.*\|$", TEXT, re.MULTILINE)]
    assert rows[0] == ["tool", "time", "against causalnet"]
    part = RESULTS[RESULTS.index("### gpt2-small, 64 tokens") :].split("\n### ")[0]
    measured = [[cell.strip() for cell in row.strip("|").split("|")][:3] for row in part.splitlines() if row[:1] == "|"]
    assert rows[2:] == measured[2:]


def test_the_citation_is_of_this_version():
    import tomllib

    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
