"""``causalnet check``: its table, its JSON, and its exit status."""

import json
import re

import pytest
import torch

from causalnet.cli.main import main
from causalnet.expr import parse
from causalnet.model.small import small_model
from causalnet.testing import LAWS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves (once) a small model of a family, without a tokenizer."""
    folders = {}

    def save(kind):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("models") / kind
            small_model(kind).save_pretrained(folders[kind])
        return folders[kind]

    return save


@pytest.fixture
def run(capfd):
    """Return a function that runs the command: exit status, stdout, lines on stderr."""

    def call(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["check", *map(str, arguments)])
        said = capfd.readouterr()
        return stop.value.code, said.out, said.err.splitlines()

    return call


def verdicts(out):
    return [line.split()[-1] for line in out.splitlines() if re.search(r"  (holds|fails)$", line)]


@pytest.mark.parametrize("kind", ["llama", "gptj", "gemma2", "lfm2", "mixtral", "apertus"])
def test_the_closures_of_a_sound_model_hold(run, saved, kind):
    code, out, err = run(saved(kind))
    assert (code, err) == (0, [])
    first, titles, *rows = out.splitlines()
    found = "discovery" if kind == "apertus" else "record"
    assert first.startswith(f"{kind}: {kind} by {found}, ")
    assert titles.split() == ["closure", "what", "is", "compared", "worst", "in", "misfit", "tolerance"]
    assert verdicts(out) == ["holds"] * len(rows)
    names = {row.split("  ")[0] for row in rows}
    assert names == {"residual", "read points", "readout"}
    for row in rows:
        size, bound = re.findall(r"\d\.?\d*e[-+]\d\d", row)
        assert float(size) <= float(bound) == 2e-5


def test_each_closure_is_named_for_what_it_is(run, saved):
    _, out, _ = run(saved("gemma2"))
    for name, what in [
        ("residual", "the sum of the contributions"),
        ("read points", "what mlp reads"),
        ("read points", "attn sees its window only"),
        ("read points", "mlp crosses no positions"),
        ("read points", "no position reads a later one"),
        ("readout", "the readout of the final stream"),
        ("readout", "direct effects plus constants"),
    ]:
        assert re.search(rf"^{name} +{what} ", out, flags=re.MULTILINE), what


def test_json_holds_every_row(run, saved):
    import causalnet

    code, out, err = run(saved("llama"), "--json", "--dtype", "float64")
    found = json.loads(out)
    report = causalnet.check(str(saved("llama")), dtype="float64")
    assert (code, err, found["holds"], found["dtype"]) == (0, [], True, "float64")
    assert [(row["what"], row["size"]) for row in found["rows"]] == [(row.what, row.size) for row in report.rows]
    assert len(found["closures"]) == len(report.summary)
    assert {row["closure"] for row in found["closures"]} == {"residual", "read points", "readout"}
    assert "edge_check" not in found


def test_edges_are_tested_on_demand(run, saved):
    code, out, err = run(saved("gptj"), "--edges")
    assert (code, err) == (0, [])
    assert re.search(r"^edges +\d+ edges each move their child .* holds$", out, flags=re.MULTILINE)
    assert re.search(r"^absent edges +\d+ absent edges move nothing .* 0 +holds$", out, flags=re.MULTILINE)
    found = json.loads(run(saved("gptj"), "--edges", "--json")[1])
    tested = found["edge_check"]
    assert tested["holds"] is True
    assert tested["edges"] == found["edges"]
    assert tested["absent_edges"] > 0
    assert tested["failed"] == []


def test_a_model_that_the_graph_does_not_fit_fails(run, saved, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    plain = LlamaDecoderLayer.forward

    def leaking(layer, hidden_states, **options):
        out = plain(layer, hidden_states, **options)
        return out + 0.1 * torch.tanh(hidden_states.roll(1, dims=-1))

    monkeypatch.setattr(LlamaDecoderLayer, "forward", leaking)
    code, out, err = run(saved("llama"))
    assert (code, len(err)) == (1, 1)
    assert "does not reproduce the model" in err[0]
    assert "fails" in verdicts(out)
    assert re.search(r"^residual +the sum of the contributions +layer \d .* fails$", out, flags=re.MULTILINE)
    code, out, err = run(saved("llama"), "--json")
    assert (code, len(err), json.loads(out)["holds"]) == (1, 1, False)


def test_where_the_record_misses_the_model_is_discovered(run, saved, monkeypatch):
    from causalnet.model import compile as compiling
    from causalnet.model.record import Family

    monkeypatch.setattr(compiling, "record_for", lambda config: Family(("llama",), parallel=True))
    code, out, err = run(saved("llama"))
    assert code == 0
    assert out.startswith("llama: llama by discovery, ")
    assert set(verdicts(out)) == {"holds"}
    assert len(err) == 1
    assert "note: " in err[0]
    assert "misses by" in err[0]


def test_an_edge_that_moves_nothing_fails(run, tmp_path):
    model = small_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    model.save_pretrained(tmp_path / "dead")
    assert run(tmp_path / "dead")[0] == 0
    code, out, err = run(tmp_path / "dead", "--edges")
    assert (code, len(err)) == (1, 1)
    assert "pairs of nodes" in err[0]
    assert re.search(r"^edges .* 0\.0e\+00 .* fails$", out, flags=re.MULTILINE)
    assert "embed -> mlp[1]: an edge, but it moves nothing" in out
    assert verdicts(out).count("fails") == 1
    code, out, _ = run(tmp_path / "dead", "--edges", "--json")
    failed = json.loads(out)["edge_check"]["failed"]
    assert code == 1
    assert {edge["target"] for edge in failed} == {"mlp[1]"}
    assert all(edge["edge"] and edge["moved"] == 0 for edge in failed)


def test_laws_are_tried_on_demand(run, saved):
    code, out, err = run(saved("gptj"), "--laws", "--cases", "2")
    assert (code, err) == (0, [])
    lines = out.splitlines()
    titles = next(place for place, line in enumerate(lines) if line.startswith("law "))
    assert lines[titles].split() == ["law", "on", "cases", "worst", "residual", "tolerance"]
    assert [line.split()[0] for line in lines[titles + 1 :]] == list(LAWS)
    assert verdicts(out) == ["holds"] * (len(lines) - 2 - 1)
    found = json.loads(run(saved("gptj"), "--laws", "--cases", "1", "--json")[1])
    assert found["holds"] is True
    assert [row["law"] for row in found["laws"]] == list(LAWS)
    assert all(row["cases"] >= 1 and row["worst_residual"] <= row["tolerance"] for row in found["laws"])


def test_a_law_that_fails_shows_its_smallest_case(run, saved, monkeypatch):
    from causalnet.engine.sources import Sources

    mean = Sources._mean
    # Plans and plain forwards share their sources, so that only a second look at the value can tell.
    monkeypatch.setattr(Sources, "_mean", lambda self, key: 1.5 * mean(self, key))
    code, out, err = run(saved("llama"), "--laws", "--cases", "4")
    assert (code, len(err)) == (1, 1)
    assert err[0].endswith("llama: 1 of 16 laws fail: effectiveness")
    assert re.search(r"^effectiveness +llama .* fails$", out, flags=re.MULTILINE)
    assert re.search(r"^null +llama .* holds$", out, flags=re.MULTILINE)
    shown = re.search(
        r"^effectiveness: .* is off by .*\n  (E\[.*\])\n  on tokens ((\d+ ?){5})$", out, flags=re.MULTILINE
    )
    assert shown is not None
    assert str(parse(shown[1])) == shown[1]
    # The shortest prompt, and one node that is set.
    assert shown[1].count(" = ") == 1
    assert "= mean)" in shown[1]
    code, out, _ = run(saved("llama"), "--laws", "--cases", "4", "--json")
    failed = {row["law"]: row["failure"] for row in json.loads(out)["laws"] if not row["holds"]}
    assert code == 1
    assert failed["effectiveness"]["expression"] == shown[1]
    assert failed["effectiveness"]["tokens"] == [int(token) for token in shown[2].split()]


def test_weights_that_are_no_numbers_fail(run, tmp_path):
    model = small_model("llama")
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    code, out, err = run(tmp_path / "nan", "--json")
    assert (code, len(err)) == (1, 1)
    assert None in [row["size"] for row in json.loads(out)["rows"]]


def test_what_cannot_be_checked_is_one_line_and_status_2(run, saved, tmp_path):
    folder = saved("llama")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    mamba = tmp_path / "mamba"
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1)).save_pretrained(mamba)
    for arguments, words in [
        ([tmp_path / "nowhere"], "no model folder"),
        ([tmp_path / "empty"], "no config.json"),
        ([tmp_path / "pickled"], "only safetensors"),
        ([tmp_path / "t5"], "encoder–decoder"),
        ([mamba], "state-space"),
        ([folder / "config.json"], "this is a file"),
        ([folder, "--dtype", "float31"], "did you mean 'float32'"),
        ([folder, "--device", "gpu"], "unknown device"),
        ([folder, "--edge-s"], "--edge-s"),
        ([folder, "--laws", "--cases", "0"], "--cases"),
        ([], "MODEL"),
    ]:
        code, out, err = run(*arguments)
        assert (code, out, len(err)) == (2, "", 1), (arguments, err)
        assert err[0].startswith("causalnet: ")
        assert words in err[0]


def test_help_shows_examples(run):
    code, out, err = run("--help")
    assert (code, err) == (0, [])
    assert "causalnet check openai-community/gpt2 --edges" in out
    assert "causalnet check path/to/checkpoint --laws --cases 50" in out
