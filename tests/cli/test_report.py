"""``causalnet report``: what it writes, what it prints, and how it fails."""

import json
import re
import shutil

import pytest

from causalnet.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run folder of one embedded model."""
    from causalnet.demo import model_path, prompts_path
    from causalnet.prompts import Prompts
    from causalnet.studies.hydra import Arm, Options, hydra

    place = tmp_path_factory.mktemp("report") / "run"
    prompts = Prompts.from_file(prompts_path())
    return hydra([Arm("", str(model_path("plain")))], prompts, options=Options(ablation="zero", limit=30), out=place)


@pytest.fixture
def call(capfd):
    """Return a function that runs the command: exit status, stdout, lines on stderr."""

    def command(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["report", *map(str, arguments)])
        said = capfd.readouterr()
        return stop.value.code, said.out, said.err.splitlines()

    return command


def numbers(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="numbers-data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_report_is_written_from_the_folder_alone(run, call, tmp_path):
    shutil.copytree(run.path, tmp_path / "moved")
    (tmp_path / "moved" / "report.html").unlink(missing_ok=True)
    code, out, err = call(tmp_path / "moved")
    assert (code, err) == (0, [])
    assert out == f"{tmp_path / 'moved' / 'report.html'}\n"
    (held,) = numbers(tmp_path / "moved" / "report.html")["sets"]
    summary = run.results[0].summary
    assert [row["name"] for row in held["summary"]["nodes"]] == [row["name"] for row in summary["nodes"]]
    assert held["summary"]["nodes"][4]["slope"] == summary["nodes"][4]["slope"]
    assert summary["findings"][0].split(";")[0].split(",")[0] in (tmp_path / "moved" / "report.html").read_text()


def test_a_run_that_does_not_fit_into_memory_gives_the_same_page(run, call, tmp_path):
    pages = []
    for memory in ("2GiB", "1MiB"):
        assert call(run.path, "--out", tmp_path / "page.html", "--memory", memory)[0] == 0
        pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    code, out, err = call(run.path, "--memory", "much")
    assert (code, out) == (2, "")
    assert "memory 'much' is no size" in err[0]


def test_file_title_and_first_prompt_are_chosen(run, call, tmp_path):
    code, out, _ = call(run.path, "--out", tmp_path / "new" / "page.html", "--title", "<b>Mine</b>", "--prompt", "3")
    assert (code, out) == (0, f"{tmp_path / 'new' / 'page.html'}\n")
    assert "<title>&lt;b&gt;Mine&lt;/b&gt;</title>" in (tmp_path / "new" / "page.html").read_text()
    assert numbers(tmp_path / "new" / "page.html")["prompt"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no run is here (there is no such folder)"),
        (["."], "no run is here (neither summary.json nor folders that hold one)"),
        (["RUN", "--prompt", "30"], "prompt 30 does not exist; legal: 0 to 29"),
        (["RUN", "--out", "."], "directory"),
        ([], "Missing argument 'RUN'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, call, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*[run.path if one == "RUN" else one for one in arguments])
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
