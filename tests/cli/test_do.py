"""``causalnet do``: what it prints where, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import causalnet as cn
from causalnet.cli.main import main
from causalnet.demo import model_path, prompts_path

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

ROOT = Path(cn.__file__).resolve().parents[1]
TE = "TE(attn[3]@last = resample)"


@pytest.fixture
def call(capsys):
    """Run the command; return exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["do", *map(str, arguments)])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture(scope="module")
def demo():
    return cn.compile(model_path("plain")), cn.Prompts.from_file(prompts_path())


def test_one_json_object(call, demo):
    model, prompts = demo
    code, out, _ = call(TE, "--limit", 12, "--donors", 3, "--seed", 2, "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["value", "std_error", "ci", "n", "units", "expression"]
    expected = model.evaluate(TE, prompts.take(12), donors=3, seed=2)
    assert found == expected.to_dict()
    assert found["n"] == 12 and found["ci"][0] < found["value"] < found["ci"][1]
    code, out, _ = call(TE, "--limit", 12, "--donors", 3, "--seed", 2, "--json", "--per-prompt")
    values = json.loads(out)["values"]
    assert values == expected.values.tolist()
    assert sum(values) / 12 == pytest.approx(found["value"], abs=1e-12)


def test_a_page_for_readers(call, demo):
    code, out, _ = call(TE, "--limit", 30, "--donors", 2, "--per-prompt", "--explain")
    assert code == 0
    assert "World 1: the attention of layer 3 at the last position" in out
    assert "95 % interval" in out and "n = 30 prompts, 2 donors each" in out
    assert demo[1][29].text in out


def test_a_dry_run_computes_nothing(call, demo, monkeypatch):
    import causalnet.engine.run as engine

    monkeypatch.setattr(engine, "run", None)
    code, out, _ = call(TE, "--limit", 12, "--dry-run")
    assert code == 0 and "token-layers instead of" in out
    code, out, _ = call(TE, "--limit", 12, "--dry-run", "--json", "--explain")
    found = json.loads(out)
    assert code == 0 and found["expression"] == TE and found["worlds"] == 2 and "World 0" in found["explanation"]


def test_answers_precision_and_pools(call, demo, tmp_path):
    _, prompts = demo
    prompts[40:60].to_jsonl(tmp_path / "pool.jsonl")
    prompts.take(3).to_jsonl(tmp_path / "own.jsonl")
    arguments = ["--prompts", tmp_path / "own.jsonl", "--target", "answer", "--dtype", "float64", "--json", "--quiet"]
    code, out, err = call(TE, *arguments, "--pool", tmp_path / "pool.jsonl")
    assert (code, err) == (0, "") and json.loads(out)["n"] == 3
    code, out, _ = call(TE, *arguments, "--pool", "random", "--same-target-donors")
    assert code == 0 and json.loads(out)["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TE(attn[3]@last = zero)", "--model", "no/such/folder"], "--model needs --prompts"),
        (["TE(attn[3]@last = zero)", "--model", "./nothing", "--prompts", prompts_path()], "nothing"),
        (["TE(attn[3]@last = zero)", "--prompts", "nothing.jsonl"], "nothing.jsonl"),
        (["TE(attn[3]@last = zero)", "--limit", 0], "at least 1"),
        (["TE(attn[3]@last = zero)", "--limit", 3, "--donors", 0], "donors must be"),
        (["TE(attn[3]@last = zero)", "--limit", 3, "--target", "best"], "legal: argmax, answer"),
        (["TE(attn[3]@last = zero)", "--limit", 3, "--dtype", "float8"], "unknown dtype"),
        (['E[logit("two words")]', "--limit", 3], "is not one token"),
        ([TE, "--limit", 1], "no other prompt to draw donors from"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(call, demo, arguments, words):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert words in err and err.startswith("causalnet: ") and err.count("\n") == 1


@pytest.mark.parametrize("text", ["TE(attn[3]@last = resampel)", "TE(attn[33]@last = zero)"])
def test_a_mistake_is_shown_with_a_caret(call, demo, text):
    code, out, err = call(text)
    assert (code, out) == (2, "")
    first, second, third = err.splitlines()
    assert first.startswith("causalnet: ")
    place = third.index("^")
    assert second.strip() == text
    assert second[place:].startswith(("resampel", "attn[33]"))


def test_a_syntax_error_needs_no_model(call, monkeypatch):
    import causalnet.api as api

    monkeypatch.setattr(api, "compile", None)
    code, _, err = call("TE(attn[3]")
    assert code == 2 and "^" in err


def test_stdout_is_the_answer_alone(demo):
    code = "import sys; from causalnet.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "do", "TE(mlp[1]@last = zero)", "--limit", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout)["n"] == 4
    assert done.stdout.count("\n") == 1
    assert "Loading" not in done.stderr


def test_a_vector_from_a_file(call, demo, tmp_path):
    vector = np.linspace(-1.0, 2.0, 128)
    np.save(tmp_path / "v.npy", vector)
    asked = 'TE(attn[3]@last = zero; projection("truth"))'
    code, out, _ = call(asked, "--vector", f"truth={tmp_path / 'v.npy'}", "--limit", 12, "--json")
    assert code == 0
    model, prompts = demo
    assert json.loads(out) == model.evaluate(asked, prompts.take(12), vectors={"truth": vector}).to_dict()
    assert call(asked, "--vector", f"truth={tmp_path / 'v.npy'}", "--limit", 12, "--dry-run")[0] == 0
    for given, said in (("truth=nowhere.npy", "there is no such file"), ("truth", "has no name or no file")):
        code, out, err = call(asked, "--vector", given, "--limit", 12)
        assert code == 2 and out == "" and said in err
    code, _, err = call(asked, "--limit", 12)
    assert code == 2 and "no vector of that name" in err
