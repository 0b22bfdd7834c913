"""``causalnet hydra`` from the command line: what it prints where, and how it refuses."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from causalnet.cli.console import complain, progress_bars, warnings_as_lines
from causalnet.cli.main import main
from causalnet.cli.process import processor_share
from causalnet.demo import model_path, prompts_path
from causalnet.draw import render
from causalnet.studies import finish

PLAIN = str(model_path("plain"))
STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Run the command in an empty folder; returns (exit status, stdout, stderr)."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture
def command():
    """Start the command as a process of its own."""
    started = []

    def start(*arguments, **options):
        words = [sys.executable, "-c", "from causalnet.cli.main import main; main()", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _prompt_file(path, *prompts):
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    return path


def _stands(path):
    """Every file below a folder with its bytes."""
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


# -- what it does --------------------------------------------------------------------------------------


def test_a_process_prints_results_on_stdout_and_the_rest_on_stderr(command, tmp_path):
    process = command("hydra", "--limit", 8, "--donors", 2, "--out", tmp_path / "run")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0] == "plain: 8 prompts, 2 donors, resample ablation; means in logits"
    heads = [line.split() for line in lines if line.startswith("name ")]
    assert (
        heads
        == [["name", "de", "te", "ce", "ce_attn", "ce_mlp", "norm", "slope", "slope_ci", "r2", "p_null", "slope_lost"]]
        * 2
    )
    assert sum(line.startswith(("attn[", "mlp[")) for line in lines) == 2 * 16
    assert sum(line.startswith("closure: |TE − DE − CE − NORM| at most ") for line in lines) == 2
    assert lines[-2:] == [f"run: {tmp_path / 'run'}", f"report: {tmp_path / 'run' / 'report.html'}"]
    for name in ("plain", "dropped"):
        findings = json.loads((tmp_path / "run" / name / "summary.json").read_text(encoding="utf-8"))["findings"]
        assert len(findings) == 5
        assert all(f"- {sentence}" in lines for sentence in findings)
    # On stderr: progress, and few prompts in one line; no library's bar or advice, no traceback.
    told = err.splitlines()
    assert [line for line in told if line.startswith("causalnet: ")] == [
        "causalnet: warning: 8 prompts: with fewer than 30 the intervals may not cover"
    ]
    assert all(
        line.startswith(("plain: sweep: ", "dropped: sweep: ", "figures and report: ", "causalnet: ")) for line in told
    )
    assert "figures and report: 100 %" in told[-1]
    shown = {one.name for one in (tmp_path / "run").iterdir()}
    assert shown == {"plain", "dropped", "report.html", "comparison.json", "plan.json", "prompts.jsonl"}


def test_json_is_one_object_and_nothing_else(call, tmp_path):
    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "zero", "--json", "--quiet")
    code, out, err = call("hydra", *chosen, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["run"] == str(tmp_path / "run")
    assert found["comparison"] is None
    assert found["arms"]["plain"] == json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert found["arms"]["plain"]["donors"] == 0


def test_the_default_folder_is_named_after_the_time(call):
    code, out, _ = call("hydra", "--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "mean")
    assert code == 0
    (made,) = Path("runs").iterdir()
    assert made.name.startswith("hydra-2")
    assert f"run: {Path('runs') / made.name}" in out


def test_stories_run(call, tmp_path):
    if not STORIES.is_dir():
        pytest.skip("stories260K is not beside the project")
    texts = ("Once upon a time there was a", "One day, a boy went to the", "The dog was very", "Lily and her mom went")
    file = _prompt_file(tmp_path / "stories.jsonl", *texts)
    code, out, err = call("hydra", "--model", STORIES, "--prompts", file, "--donors", 3, "--out", tmp_path / "run")
    assert code == 0, err
    assert out.startswith("stories260K: 4 prompts, ")
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["closure_max_rel"] < 1e-4


def test_two_models_are_compared(call, tmp_path):
    chosen = ("--model", PLAIN, "--compare", model_path("dropped"), "--prompts", prompts_path(), "--limit", 30)
    code, out, err = call("hydra", *chosen, "--donors", 2, "--out", tmp_path / "run", "--quiet")
    assert (code, err) == (0, "")
    assert "\ncomparison\n- " in out
    found = json.loads((tmp_path / "run" / "comparison.json").read_text(encoding="utf-8"))
    assert found["names"] == ["plain", "dropped"]
    assert len(found["nodes"][0]["slope_ci"]) == 2
    code, out, _ = call("hydra", "--model", PLAIN, "--compare", PLAIN, "--prompts", prompts_path(), "--limit", 30,
                        "--ablation", "zero", "--out", tmp_path / "same", "--quiet")  # fmt: skip
    assert code == 0
    assert {one.name for one in (tmp_path / "same").iterdir()} >= {"plain-1", "plain-2"}


def test_texts_are_cut_into_prompts_and_filters_say_what_they_drop(call, tmp_path):
    if not STORIES.is_dir():
        pytest.skip("stories260K is not beside the project")
    text = "Once upon a time there was a little girl named Lily who loved to play outside in the park with her dog"
    (tmp_path / "texts.txt").write_text(
        f"{text}\nOne day\n{text.replace('Lily', 'Anna')} and her cat\n", encoding="utf-8"
    )
    chosen = ("--model", STORIES, "--prompts", tmp_path / "texts.txt", "--ablation", "zero", "--out", tmp_path / "run")
    code, out, err = call("hydra", *chosen, "--cut-at", 12, "--cut-at", 16)
    assert code == 0, err
    assert out.startswith("stories260K: 4 prompts, zero ablation")
    assert "causalnet: note: 1 of 3 prompts dropped: no place between tokens where the text can be cut" in err
    kept = [json.loads(line) for line in (tmp_path / "run" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["features"]["tokens"] for one in kept] == [12, 16, 12, 16]
    assert all(text.replace("Lily", "Anna").startswith(one["prompt"]) or text.startswith(one["prompt"]) for one in kept)


def test_a_split_that_does_not_close_exits_1_and_keeps_the_run(call, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "CLOSES", {"float32": 0.0})
    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "zero", "--quiet")
    code, out, err = call("hydra", *chosen, "--out", tmp_path / "run")
    assert code == 1
    assert "plain: closure residual" in err
    assert "closure: " in out
    assert (tmp_path / "run" / "summary.json").is_file()


def test_notes_on_the_prompt_file_are_passed_on(call, tmp_path):
    texts = [json.loads(line)["prompt"] for line in prompts_path().read_text(encoding="utf-8").splitlines()[:30]]
    file = _prompt_file(tmp_path / "p.jsonl", *texts)
    file.write_text(file.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    code, _, err = call(
        "hydra", "--model", PLAIN, "--prompts", file, "--ablation", "zero", "--out", tmp_path / "run", "--quiet"
    )
    assert code == 0
    assert err == f"causalnet: note: {file}: 2 blank lines skipped\n"


def test_without_graphviz_the_graph_is_dot_and_one_line_says_so(call, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    render._warn_missing.cache_clear()
    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "zero", "--quiet")
    code, _, err = call("hydra", *chosen, "--out", tmp_path / "run")
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("causalnet: warning: the Graphviz program 'dot' was not found")
    assert {one.name for one in (tmp_path / "run").glob("graph.*")} == {"graph.json", "graph.dot"}
    assert (tmp_path / "run" / "report.html").is_file()


def test_help_names_every_option_with_its_default_and_examples(call):
    code, out, err = call("hydra", "--help")
    assert (code, err) == (0, "")
    options = ("model", "prompts", "ablation", "donors", "limit", "seed", "device", "dtype", "out", "overwrite")
    assert all(f"--{one} " in out for one in options)
    for default in ("(resample)", "15", "0", "cpu", "float32", "(runs/hydra-<time>)", "(the embedded models)"):
        assert f"[default: {default}]" in " ".join(out.split())
    assert "\n    causalnet hydra --model path/to/checkpoint --prompts prompts.jsonl\n" in out


def test_without_a_command_the_help_is_shown(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert "hydra" in out


# -- what it refuses -----------------------------------------------------------------------------------


def _bad_line(path):
    (path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"\n', encoding="utf-8")


def _empty_prompt(path):
    _prompt_file(path / "p.jsonl", "the river", "")


def _long_prompt(path):
    _prompt_file(path / "p.jsonl", "the river", "the " * 200)


def _one_prompt(path):
    _prompt_file(path / "p.jsonl", "the river")


def _no_config(path):
    (path / "m").mkdir()


def _other_things(path):
    (path / "r").mkdir()
    (path / "r" / "diary.txt").write_text("dear diary", encoding="utf-8")


def _old_run(path):
    (path / "r" / "effects.zarr").mkdir(parents=True)
    (path / "r" / "summary.json").write_text("{}", encoding="utf-8")


def _file(path):
    (path / "r").write_text("x", encoding="utf-8")


def _nothing(path):
    pass


@pytest.mark.parametrize(
    ("prepare", "arguments", "words"),
    [
        (_nothing, "--model ./no/such/model --prompts PROMPTS", "no model folder './no/such/model'"),
        (_no_config, "--model ./m --prompts PROMPTS", "no config.json in this folder"),
        (_nothing, "--model PLAIN", "--model needs --prompts"),
        (_nothing, "--model PLAIN --prompts nowhere.jsonl", "nowhere.jsonl: there is no such file"),
        (_nothing, "--model PLAIN --prompts .", "is a folder, not a prompt file"),
        (_bad_line, "--model PLAIN --prompts p.jsonl", "p.jsonl, line 2: is not JSON"),
        (_empty_prompt, "--model PLAIN --prompts p.jsonl", "p.jsonl, line 2: empty prompt"),
        (_long_prompt, "--model PLAIN --prompts p.jsonl", "more than the model's context of 128"),
        (_one_prompt, "--model PLAIN --prompts p.jsonl", "there is no other prompt to draw donors from"),
        (_nothing, "--ablation zer", "unknown ablation 'zer'; did you mean 'zero'?"),
        (_nothing, "--donors -1", "donors is -1; it must be at least 1"),
        (_nothing, "--donors many", "Invalid value for '--donors'"),
        (_nothing, "--limit 0", "limit is 0"),
        (_nothing, "--seed -1", "seed is -1"),
        (_nothing, "--dtype float3", "did you mean 'float32'?"),
        (_nothing, "--device gpu", "unknown device 'gpu'"),
        (_old_run, "--out r", "r: this folder holds a run; name another with --out, or give --overwrite"),
        (_other_things, "--out r", "r: this folder holds something that is not a run (diary.txt)"),
        (_other_things, "--out r --overwrite", "only runs are ever replaced"),
        (_file, "--out r", "r: this is a file, not a folder"),
        (_file, "--out r/run", "r/run: cannot be written"),
        (_nothing, "--out /proc/no/run", "/proc/no/run: cannot be written"),
        (_nothing, "--resume", "--resume needs --out"),
        (_nothing, "--compare PLAIN", "--compare needs --model"),
        (_nothing, "--memory lots", "memory 'lots' is no size"),
        (_nothing, "--position 3:2", "the positions @3:2 are empty"),
        (_nothing, "--outcome prob(target)@0 --limit 30", "prob(target)@0 is not read at the last token"),
        (_nothing, "--stratum colour --limit 30", "no prompt has a feature 'colour'"),
        (_nothing, "--checkpoints nowhere --limit 30", "nowhere: there is no such folder of checkpoints"),
        (_nothing, "--relation tallest", "no prompt is left with relation = 'tallest'"),
        (_nothing, "--dono 3", "--dono"),
        (_nothing, "extra", "No such command 'extra'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(call, prepare, arguments, words):
    here = Path()
    prepare(here)
    before = _stands(here)
    swap = {"PLAIN": PLAIN, "PROMPTS": prompts_path()}
    code, out, err = call("hydra", *(swap.get(word, word) for word in arguments.split()))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("causalnet: ")
    assert words in err
    assert _stands(here) == before
    assert not Path("runs").exists()


def test_a_mistyped_command_is_one_line_too(call):
    code, out, err = call("hydr")
    assert (code, out) == (2, "")
    assert err == "causalnet: No such command 'hydr'. Did you mean 'hydra'?; see 'causalnet --help'\n"


def test_one_prompt_can_be_zeroed(call, tmp_path):
    file = _prompt_file(tmp_path / "p.jsonl", json.loads(prompts_path().read_text().splitlines()[0])["prompt"])
    chosen = ("--model", PLAIN, "--prompts", file, "--out", tmp_path / "run", "--quiet")
    code, out, err = call("hydra", *chosen, "--ablation", "zero")
    assert code == 0
    assert err == "causalnet: warning: 1 prompt: with fewer than 30 the intervals may not cover\n"
    assert out.startswith("plain: 1 prompt, zero ablation; means in logits\n")


# -- how it is stopped ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_finished_chunks_and_says_how_to_go_on(command, tmp_path, number, status):
    _old_run(tmp_path)
    run = tmp_path / "r"
    process = command("hydra", "--out", run, "--overwrite", "--chunk", 100)
    # The first line of progress says that rows are being computed.
    first = process.stderr.readline()
    assert first.startswith("plain: sweep: ")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    assert {one.name for one in tmp_path.iterdir()} == {"r"}
    assert not any((run / name).exists() for name in ("summary.json", "comparison.json", "report.html"))
    told = err.splitlines()
    if number == signal.SIGINT:
        assert told.pop() == "causalnet: interrupted; nothing was left half-written"
    hint = f"causalnet: finished chunks are kept; go on with the same arguments and --resume --out {run}"
    assert told[-1] == hint


def test_an_interrupt_while_the_report_is_written_leaves_a_run_that_can_go_on(call, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "zero", "--quiet")
    run = tmp_path / "new" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(finish, "_report", interrupted)
        code, out, err = call("hydra", *chosen, "--out", run)
    assert (code, out) == (130, "")
    assert err.splitlines()[0].endswith(f"--resume --out {run}")
    assert not (run / "summary.json").exists()
    code, _, err = call("hydra", *chosen, "--out", run)
    assert (code, err) == (
        2,
        f"causalnet: {run}: this folder holds an unfinished run; go on with --resume, or begin anew with --overwrite\n",
    )
    code, out, err = call("hydra", *chosen, "--out", run, "--resume")
    assert (code, err) == (0, "")
    assert f"run: {run}" in out
    assert (run / "report.html").exists()


def test_an_interrupt_that_python_dropped_is_honoured_at_the_next_step(call, tmp_path, monkeypatch):
    real = finish._report

    before = signal.getsignal(signal.SIGINT)

    def swallowing(*arguments):
        # What happens to an exception that is raised inside a destructor.
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        real(*arguments)

    monkeypatch.setattr(finish, "_report", swallowing)
    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 30, "--ablation", "zero", "--quiet")
    code, out, err = call("hydra", *chosen, "--out", tmp_path / "run")
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "causalnet: interrupted; nothing was left half-written"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_reader_that_goes_away_is_no_traceback(command, tmp_path):
    chosen = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 5, "--ablation", "zero", "--quiet")
    process = command("hydra", *chosen, "--out", tmp_path / "run")
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=120)
    assert process.returncode == 141
    assert "Traceback" not in err
    assert "Exception ignored" not in err


# -- the console ---------------------------------------------------------------------------------------


def test_warnings_are_lines_shown_once(capsys):
    import warnings

    with warnings_as_lines():
        warnings.simplefilter("always")
        for _ in range(2):
            warnings.warn("two\nlines", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "causalnet: warning: two lines\n"


def test_complaints_are_one_line(capsys):
    assert complain("a\n  b", 2) == 2
    assert capsys.readouterr().err == "causalnet: a b\n"


def test_progress_lines_begin_at_once_and_end(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 7.0, 8.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress_bars() as advance:
        for done in range(5):
            advance("x", done, 4)
    assert capsys.readouterr().err == "x: 0 % (0 s)\nx: 75 % (7 s)\nx: 100 % (8 s)\n"
    with progress_bars(quiet=True) as advance:
        advance("x", 1, 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, sys.maxsize),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_the_processor_share_of_a_container_is_read(tmp_path, files, share):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert processor_share(tmp_path) == share


def test_a_broken_checkpoint_is_refused_in_one_line(call, tmp_path):
    shutil.copytree(PLAIN, tmp_path / "m")
    weights = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(weights[:2000])
    code, out, err = call("hydra", "--model", tmp_path / "m", "--prompts", prompts_path(), "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
