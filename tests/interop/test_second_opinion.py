"""The page of the second opinion holds what its command prints."""

from pathlib import Path

import pytest
import second_opinion

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "results" / "second_opinion.md"
pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")


def tables(lines):
    """Return the rows of every table, each as cells by title."""
    found, open_table = [], None
    for line in lines:
        if not line.startswith("|"):
            open_table = None
            continue
        cells = [cell.strip() for cell in line.replace(r"\|", "¦").replace("−", "-").strip("|").split("|")]
        if open_table is None:
            open_table = (cells, [])
            found.append(open_table[1])
        elif not set(line) <= {"|", "-"}:
            open_table[1].append(dict(zip(open_table[0], cells, strict=True)))
    return found


@pytest.fixture(scope="module")
def page():
    return tables(PAGE.read_text(encoding="utf-8").splitlines())


def columns(table, *names):
    return [[row[name] for name in names] for row in table]


def test_the_twin_agrees_as_the_page_says(page, stories):
    (found,) = tables(second_opinion.twin(stories))
    assert columns(found, "question", "mean") == columns(page[0], "question", "mean")
    for row in (*found, *page[0]):
        assert max(float(row[f"{way}, off by"]) for way in ("interventional", "counterfactual")) < 5e-5


def test_the_experiment_is_the_one_of_the_page(page, stories):
    # Few passes: what the passes do not change is the same, and so are the titles.
    (found,) = tables(second_opinion.randomised(stories, 60, 2))
    assert columns(found, "node", "alone") == columns(page[1], "node", "alone")
    assert list(found[0]) == list(page[1][0])
    for row in page[1]:
        low, high = map(float, row["regression"].split("(")[1].rstrip(")").split(" to "))
        assert low < float(row["exact"]) < high
        assert all(abs(float(row[method]) - float(row["exact"])) < 0.18 for method in ("matching", "weighting"))


def test_the_verdicts_are_those_of_the_page(page, stories):
    lines = list(second_opinion.falsified(stories))
    (found,) = tables(lines)
    told = ("circuit", "data", "test", "independences", "verdict")
    assert columns(found, *told) == columns(page[2], *told)
    linear = [columns([row for row in table if row["test"] == "linear"], "violated") for table in (found, page[2])]
    assert linear[0] == linear[1]
    assert lines[-1].startswith("The dense graph is refused: every two of the 6 nodes are joined")
