"""The page "Add a model family", followed to the letter for families whose records are taken away."""

import shutil
import sys
from pathlib import Path

import pytest
from docs_reading import DOCS, blocks

from causalnet.model import families
from causalnet.model.compile import compile_model
from causalnet.model.families import record_for, records

PAGE = DOCS / "howto" / "add_family.md"


@pytest.fixture
def own_families(tmp_path, monkeypatch):
    """A copy of the folder of records that a test may change."""
    folder = tmp_path / "families"
    shutil.copytree(Path(families.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(families, "__path__", [str(folder)])
    records.cache_clear()
    yield folder
    records.cache_clear()
    for name in [name for name in sys.modules if name.startswith("causalnet.model.families.mine_")]:
        del sys.modules[name]


@pytest.mark.parametrize(("kind", "file"), [("gptj", "gptj.py"), ("olmo2", "olmo.py"), ("falcon", "falcon.py")])
def test_a_reader_of_the_page_succeeds(kind, file, own_families, capsys):
    before = compile_model(_network(kind)).graph
    (own_families / file).unlink()
    records.cache_clear()
    assert record_for(_network(kind).config) is None

    look, show, keep, check = (block.text.replace('"biogpt"', repr(kind)) for block in blocks(PAGE))
    space = {}
    exec(look, space)
    assert capsys.readouterr().out == "discovery\n"
    exec(show, space)
    printed = capsys.readouterr().out.strip()
    assert printed.startswith(f'Family(("{kind}"')

    # The file is the one on the page, with the expression that was printed in the place of the page's.
    shown = keep[keep.index("    Family(") : keep.rindex(")")]
    name = f"mine_{kind}"
    (own_families / f"{name}.py").write_text(keep.replace(shown, f"    {printed},\n"), encoding="utf-8")
    records.cache_clear()
    found = compile_model(_network(kind))
    assert found.found == "record"
    assert found.graph == before

    exec((own_families / f"{name}.py").read_text(encoding="utf-8"), space)
    exec(check, space)
    assert capsys.readouterr().out == "True True True\n"


def test_the_pages_own_record_is_what_is_found():
    from causalnet.model.discover import discover
    from causalnet.model.record import source_of

    space = {}
    exec(blocks(PAGE)[2].text, space)
    assert source_of(space["RECORDS"][0]) == source_of(discover(_network("biogpt")))


def _network(kind):
    from causalnet.model.small import small_model

    return small_model(kind)
