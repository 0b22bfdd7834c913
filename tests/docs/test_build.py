"""The documentation is built without a warning, and with it every tutorial is run once."""

import re
import shutil
import subprocess
import sys

import pytest
from docs_reading import DOCS, ROOT
from generated import tutorial_cache

PICTURES = {"2": 3, "4": 5}
"""Pictures that a tutorial draws, by its number."""

TUTORIALS = sorted(path.stem for path in (ROOT / "tutorials").glob("[0-9]_*.py"))
BUILT = ROOT / "build" / "docs"


@pytest.fixture(scope="module")
def build():
    """Build into the place of ``make docs``, which then finds the tutorials' outputs."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(BUILT)]
    cache = tutorial_cache()
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr[-4000:]
    return BUILT, cache


def test_there_are_seven_tutorials():
    assert [name[0] for name in TUTORIALS] == list("1234567")


@pytest.fixture
def built(build):
    """Where the pages are."""
    return build[0]


@pytest.mark.timeout(1200)
def test_every_tutorial_is_run_in_time(built, build):
    from jupyter_cache import get_cache

    records = get_cache(build[1]).list_cache_records()
    seconds = {record.uri: record.data["execution_seconds"] for record in records}
    for name in TUTORIALS:
        (took,) = (value for uri, value in seconds.items() if name in uri)
        # A minute on two idle cores; other tests share them here.
        assert took < 150, f"{name}: {took:.0f} s"
        page = (built / "tutorials" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("cell_output") >= 3
        assert len(re.findall(r'<img [^>]*src="[^"]*_images/', page)) >= PICTURES.get(name[0], 0), name
        assert "Traceback (most recent call last)" not in page


def test_no_page_reaches_for_the_network(built):
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        fetched = re.findall(r"""<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=["'](?:https?:)?//[^"']+""", text)
        assert not [one for one in fetched if 'rel="canonical"' not in one], f"{page.name}: {fetched[:2]}"
    for sheet in built.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_pictures_of_the_concepts_are_there(built):
    for page in (DOCS / "concepts").glob("*.md"):
        for picture in re.findall(r"_generated/(\w+\.svg)", page.read_text(encoding="utf-8")):
            size = (built / "_images" / picture).stat().st_size
            assert size > (1000 if shutil.which("dot") else 100)
    pages = [page for page in (DOCS / "concepts").glob("*.md") if page.stem != "index"]
    assert all("_generated/" in page.read_text(encoding="utf-8") for page in pages)
    assert all("{cite" in page.read_text(encoding="utf-8") for page in pages)
