"""compile, check, the model it returns, and what importing costs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

import causalnet as cn
from causalnet.effects.result import Result
from causalnet.errors import DataError, InputError, UnsupportedModelError

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")


def test_import_is_light():
    heavy = ["torch", "transformers", "dowhy", "hypothesis", "xarray", "matplotlib", "lark", "scipy", "pandas", "zarr"]
    code = f"import sys, causalnet; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_root())
    assert done.stdout.strip() == "[]"


def _root():
    from pathlib import Path

    return Path(cn.__file__).resolve().parents[1]


def test_public_names():
    for name in cn.__all__:
        assert getattr(cn, name) is not None
    assert cn.Result is Result
    assert "Result" in dir(cn)
    with pytest.raises(AttributeError, match="no attribute 'Reslt'"):
        cn.Reslt  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    small.mechanisms.hf.save_pretrained(path)
    small.tokenizer.save_pretrained(path)
    return path


def test_a_folder(folder, small):
    model = cn.compile(folder, dtype=torch.float64)
    assert repr(model) == ("CausalModel(tiny: 4 layers, d_model 8, 23 tokens; layer graph of 11 nodes; float64 on cpu)")
    texts = ["Mary gave the key to Tom", "Tom saw the book in Rome"]
    one, other = model.evaluate("E[sigma]", texts), small.evaluate("E[sigma]", texts)
    assert one.values.tolist() == other.values.tolist()
    assert one.run["model"] == "tiny" and one.run["dtype"] == "float64"
    assert cn.compile(str(folder)).mechanisms.dtype == torch.float32
    assert cn.compile(folder, granularity="head").graph.granularity == "head"


def test_a_model_finds_the_tokenizer_beside_its_weights(folder):
    from transformers import AutoModelForCausalLM

    model = cn.compile(AutoModelForCausalLM.from_pretrained(folder).eval())
    assert model.tokenizer("Mary gave")["input_ids"] == [1, 5]


def test_no_tokenizer_is_told_when_it_is_needed(small, tmp_path):
    bare = cn.compile(small.mechanisms.hf)
    assert bare.graph == small.graph
    with pytest.raises(InputError, match=r"no tokenizer; give one: compile\(model, tokenizer=…\)"):
        bare.evaluate("E[sigma]", ["Mary"])
    small.mechanisms.hf.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"compile\(model, tokenizer"):
        cn.compile(tmp_path).tokenizer  # noqa: B018


def test_what_cannot_be_compiled(small, tmp_path):
    with pytest.raises(InputError, match="already loaded"):
        cn.compile(small.mechanisms.hf, dtype="float32")
    with pytest.raises(InputError, match="compile_config"):
        cn.compile(LlamaConfig())
    with pytest.raises(UnsupportedModelError):
        cn.compile(object())
    with pytest.raises(InputError, match="no config"):
        cn.compile(tmp_path)
    with pytest.raises(InputError, match="granularity"):
        cn.compile(small.mechanisms.hf, granularity="neuron")


def test_config_alone(folder):
    graph = cn.compile_config(folder)
    assert graph.layers == 4
    assert set(graph.nodes) == set(cn.compile(folder).graph.nodes)
    assert cn.compile_config(LlamaConfig(num_hidden_layers=3), granularity="head").granularity == "head"


def test_check(folder):
    report = cn.check(folder)
    assert report.holds and report.rows
    assert cn.compile(folder).check().holds


def test_questions_that_need_the_graph(small):
    text = "DE(attn[1]@last = resample)"
    assert "On this graph (4 layers)" in small.explain(text)
    worlds = small.worlds(text)
    assert not worlds[0] and "norm = natural" in str(worlds[1])
    assert worlds == cn.parse(text).worlds(small.graph)
    assert not small.mutilated(text).parents("attn[1]")
    assert small.mutilated(text, 0).parents("attn[1]") == small.graph.parents("attn[1]")


def test_results_are_kept(small, prompts, tmp_path):
    found = small.evaluate("TE(attn[1]@last = resample)", prompts, donors=4)
    with pytest.raises(ValueError, match="read-only"):
        found.values[0] = 0.0
    again = Result.load(found.save(tmp_path / "result.json"))
    for name in ("value", "std_error", "ci", "level", "n", "units", "prompts", "texts", "targets", "target_texts"):
        assert getattr(again, name) == getattr(found, name), name
    for name in ("values", "units_table", "donor_index"):
        assert np.array_equal(getattr(again, name), getattr(found, name), equal_nan=name == "units_table"), name
    assert again.run == json.loads(json.dumps(found.run)) and again.notes == found.notes
    assert str(again) == str(found)
    assert found.run["arguments"]["given"] == {"donors": 4}
    assert found.run["arguments"]["defaulted"]["target"] == "argmax"
    assert found.run["seed"] == 0 and found.run["versions"]["torch"] == torch.__version__
    fixed = small.evaluate("TE(attn[1]@last = zero)", prompts[:1])
    assert str(Result.load(fixed.save(tmp_path / "one.json"))) == str(fixed)
    with pytest.raises(InputError, match="cannot be written"):
        found.save(tmp_path / "no" / "such.json")
    (tmp_path / "other.json").write_text('{"schema": "causalnet-result/9"}')
    for name, words in (("none.json", "no result"), ("other.json", "schema 'causalnet-result/9'")):
        with pytest.raises(DataError, match=words):
            Result.load(tmp_path / name)


def test_dataset(small, prompts):
    found = small.evaluate("TE(attn[1]@last = resample)", prompts, donors=4)
    data = found.to_dataset()
    assert data["units_table"].dims == ("prompt", "donor") and data["values"].attrs["units"] == found.units
    assert float(data["values"].mean()) == pytest.approx(found.value)
    assert data.attrs["expression"] == found.expression
    assert json.loads(data.attrs["run"])["model"] == found.run["model"]
    assert data["donor_index"].values.tolist() == found.donor_index.tolist()
