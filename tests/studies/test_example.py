"""One prompt, one ablated layer: the numbers of figures 1 to 3."""

import csv
import json

import numpy as np
import pytest

from causalnet.cli.main import main
from causalnet.demo import model_path, prompts_path
from causalnet.effects import load
from causalnet.prompts import Prompts
from causalnet.studies.example import example
from causalnet.studies.hydra import Options, sweep_model
from causalnet.studies.models import Models
from causalnet.studies.options import Arm

DROPPED = str(model_path("dropped"))


@pytest.fixture(scope="module")
def pool():
    return Prompts.from_file(prompts_path())


@pytest.fixture(scope="module")
def shown(pool, tmp_path_factory):
    out = tmp_path_factory.mktemp("example") / "run"
    options = Options(donors=5, limit=40)
    return example(Arm("", DROPPED), pool.texts[50], pool, layer="3", options=options, out=out)


def test_an_example_is_the_sweep_of_its_prompt(shown, pool):
    """The same prompt among the same donors, by the whole sweep."""
    items = (pool[50], *pool.items[:40])
    loaded = Models(Options()).take(DROPPED, "")
    whole = sweep_model(loaded.mechanisms, loaded.tokenizer, Prompts(items), Options(donors=5)).isel(prompt=0)
    data = load(shown.path / "effects.zarr")
    assert data.attrs["donor_pool"] == "separate"
    np.testing.assert_array_equal(data["donor_index"][0], whole["donor_index"])
    for name in ("te", "de", "ce", "norm", "delta_de", "clean_direct"):
        np.testing.assert_allclose(data[name][0], whole[name], rtol=0, atol=2e-5, err_msg=name)


def test_impacts_are_clean_plus_change(shown):
    with (shown.path / "impacts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    data = load(shown.path / "effects.zarr")
    components = list(dict.fromkeys(row["component"] for row in rows))
    assert components[:4] == ["attn[0]", "mlp[0]", "attn[1]", "mlp[1]"] and len(components) == 16
    assert len(rows) == 16 * (1 + 5 + 1)
    by = {(row["component"], row["series"], row["donor"]): float(row["impact"]) for row in rows}
    cell = data.isel(prompt=0).sel(node="attn[3]")
    for name in ("mlp[3]", "attn[5]", "mlp[7]"):
        clean = float(data["clean_responder"].isel(prompt=0).sel(responder=name))
        assert by[name, "clean", ""] == pytest.approx(clean, abs=1e-6)
        change = cell["delta_de"].sel(responder=name).values
        for donor, one in zip(data["donor_index"].values[0].tolist(), change.tolist(), strict=True):
            assert by[name, "donor", str(donor)] == pytest.approx(clean + one, abs=1e-5)
        assert by[name, "mean", ""] == pytest.approx(clean + change.mean(), abs=1e-5)
    assert by["attn[2]", "mean", ""] == by["attn[2]", "clean", ""]  # not downstream
    own = by["attn[3]", "mean", ""] - by["attn[3]", "clean", ""]
    assert own == pytest.approx(shown.facts["de"], abs=1e-5)


def test_responders_come_by_size_and_add_up(shown):
    sizes = [abs(row["delta_de"]) for row in shown.responders]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(row["delta_de"] for row in shown.responders) == pytest.approx(shown.facts["ce"], abs=1e-4)
    assert {row["responder"] for row in shown.responders} <= {
        name for layer in range(3, 8) for name in (f"attn[{layer}]", f"mlp[{layer}]")
    }
    assert "<svg" in (shown.path / "example.svg").read_text(encoding="utf-8")


def test_the_command_prints_them(pool, tmp_path, capsys):
    chosen = ["hydra", "example", "--prompt", pool.texts[3], "--donors", "3", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main(chosen)
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    assert out.splitlines()[0].startswith("dropped: ")
    assert "responder" in out and out.splitlines()[-1] == f"run: {tmp_path / 'run'}"
    facts = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["example"]
    data = load(tmp_path / "run" / "effects.zarr")
    answered = data["clean_direct"].values[0][:-1]  # nothing answers the last MLP
    assert facts["node"] == data["node"].values[int(np.argmax(np.abs(answered)))]
    assert f"{facts['node']} ablated (resample, 3 donors)" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "9"], "has no layer 'attn[9]' to ablate"),
        (["--layer", "mpl[3]"], "did you mean 'mlp[3]'"),
        (["--model", DROPPED], "--model needs --prompts"),
        (["--ablation", "zero,mean"], "one kind of ablation"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["hydra", "example", "--prompt", "the river", "--out", str(tmp_path / "run"), *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
