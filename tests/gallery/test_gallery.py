"""The gallery in ``graphs/`` is what the families compile to, byte by byte."""

import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from causalnet.errors import UnsupportedModelError
from causalnet.graph import CausalGraph

GRAPHS = Path(__file__).parents[2] / "graphs"
LISTED = sorted(path.stem for path in GRAPHS.glob("*.graphml"))


@cache
def build():
    found = importlib.util.spec_from_file_location("graphs_build", GRAPHS / "build.py")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where its dataclasses look themselves up
    found.loader.exec_module(module)
    return module


@cache
def entry(family):
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    return build().entry(family)


@pytest.mark.parametrize("family", LISTED)
def test_the_graph_of_a_family_is_what_it_compiles_to(family, tmp_path):
    one = entry(family)
    one.write(tmp_path)
    for ending in ("graphml", "dot"):
        name = f"{family}.{ending}"
        assert (GRAPHS / name).read_bytes() == (tmp_path / name).read_bytes(), f"{name} is out of date: make graphs"
    assert CausalGraph.from_graphml((GRAPHS / f"{family}.graphml").read_text(encoding="utf-8")) == one.graph
    # Graphviz's versions place text differently, so the picture is held to what it shows.
    picture = ElementTree.fromstring((GRAPHS / f"{family}.svg").read_bytes())
    shown = {element.get("id", "") for element in picture.iter()}
    assert {name for name in shown if name.startswith("node-")} == {f"node-{node}" for node in one.graph.nodes}


def test_the_table_says_what_the_graphs_are():
    text = (GRAPHS / "README.md").read_text(encoding="utf-8")
    # The version stands there for people: another one that compiles to the same graphs is as good.
    words = re.compile(r"`transformers` \S+ that")
    wanted = build().readme(entry(family) for family in LISTED)
    assert words.sub("", text) == words.sub("", wanted), "README.md is out of date: make graphs"


def test_every_family_with_a_record_is_here_and_nothing_else_lies_about():
    from causalnet.model.families import records

    refused = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
    kinds = {kind for record in records() for kind in record.model_types} - refused
    inner = {entry(family).portrait.family for family in LISTED}
    assert kinds & set(build().families()) <= set(LISTED) | inner
    assert len(kinds & set(LISTED)) >= 45
    assert sum(entry(family).portrait.found == "discovery" for family in LISTED) >= 12
    files = {path.name for path in GRAPHS.iterdir() if path.is_file()}
    assert files == {"README.md", "build.py"} | {f"{one}.{end}" for one in LISTED for end in ("graphml", "dot", "svg")}
    assert sum((GRAPHS / name).stat().st_size for name in files) < 3_000_000


def test_what_is_refused_is_left_out(capsys):
    with pytest.raises(UnsupportedModelError, match="state-space"):
        build().entry("mamba")
    assert [one.family for one in build().entries(["gpt2", "mamba"])] == ["gpt2"]
    assert capsys.readouterr().err.startswith("mamba: refused: ")
    assert not {"mamba", "t5", "bart", "rwkv"} & set(LISTED)
    assert "bart" not in build().families()


def test_a_model_around_a_text_model_is_listed_once():
    assert [one.family for one in build().entries(["gemma3", "gemma3_text"])] == ["gemma3_text"]
    assert [one.family for one in build().entries(["gemma3"])] == ["gemma3"]
