"""The paper's probable prompts with GPT-2's own tokenizer, on random weights: loading, filters, strata, report."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from causalnet.draw import read_run
from causalnet.effects import load
from causalnet.prompts import Prompts
from causalnet.studies.hydra import Arm, Options, hydra

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPES = {
    "small": {"n_embd": 48, "n_layer": 2, "n_head": 2},
    "GPT-2 small": {"n_embd": 768, "n_layer": 12, "n_head": 12},
}


@pytest.fixture(scope="module")
def known():
    if not (DATA / "known_1000").is_dir():
        pytest.skip("known_1000 is not beside the project")
    return Prompts.from_file(DATA / "known_1000" / "known_1000.json")


def _checkpoint(path, shape):
    """Random weights of a GPT-2 shape with GPT-2's own tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**SHAPES[shape], initializer_range=0.1))
    model.save_pretrained(path)
    for file in (DATA / "gpt2_tokenizer").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


@pytest.mark.parametrize(
    ("shape", "limit", "donors"), [("small", 40, 3), pytest.param("GPT-2 small", 100, 15, marks=pytest.mark.slow)]
)
def test_the_study_runs_on_them(known, tmp_path, shape, limit, donors):
    assert len(known) == 1209
    assert len(set(known.feature("relation"))) == 33
    model = _checkpoint(tmp_path / "gpt2", shape)
    relations = list(dict.fromkeys(known.feature("relation")))[: limit // 20]
    filters = {"single_token_answers": True, "relations": tuple(relations)}
    options = Options(donors=donors, limit=limit, strata=("relation",), chunk=25, **filters)
    run = hydra([Arm("", str(model))], known, options=options, out=tmp_path / "run")
    data = load(run.path / "effects.zarr")
    assert dict(data.sizes) == {
        "prompt": limit, "node": 2 * SHAPES[shape]["n_layer"], "donor": donors,
        "responder": 2 * SHAPES[shape]["n_layer"] - 1,
    }  # fmt: skip
    assert run.misfits == []
    assert run.results[0].summary["closure_max_rel"] < 1e-4
    dropped = json.loads(data.attrs["run"])["prompts"]["dropped"]
    # Every one of these answers is one token of GPT-2; what the relations leave out is counted.
    assert [line.partition(" dropped: ")[2][:15] for line in dropped] == ["relation is not", "beyond the firs"]
    assert any(one.startswith("variants/strata/relation=") for one in run.results[0].variants)
    (arm,) = read_run(run.path).arms
    assert arm.summary["prompts"] == limit
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert len(page) < 8_000_000
    assert arm.summary["findings"][0].split(":")[0] in page
