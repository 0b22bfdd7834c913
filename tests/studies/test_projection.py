"""The projection on a named vector: an outcome that splits over nodes as a logit does."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import causalnet as cn
from causalnet.demo import model_path, prompts_path
from causalnet.effects import load
from causalnet.effects.asking import PromptedModel
from causalnet.effects.curved import measure_worlds
from causalnet.effects.decompose import split
from causalnet.effects.sweep import cells, find_targets, measure, plan_sweep
from causalnet.effects.vectors import read_vector, read_vectors
from causalnet.engine.inputs import Inputs
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading, plan
from causalnet.engine.readings import Lookup
from causalnet.engine.run import run
from causalnet.errors import DataError, InputError, UnknownNameError
from causalnet.expr import NATURAL_WORLD, Outcome, attn, last, mlp, projection, zero
from causalnet.expr.values import ZERO
from causalnet.prompts import Prompts
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.subjects import subject
from causalnet.studies.sweeps import Question, job, sweep_model

PLAIN = str(model_path("plain"))
Y = projection("truth")
WIDTH = 24


@pytest.fixture(scope="module")
def vector():
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def _inputs(mechanisms, words, prompts):
    ids = tuple(tuple(words(text)["input_ids"]) for text in prompts.texts)
    return Inputs(ids, targets=tuple(find_targets(mechanisms, Inputs(ids)).tolist()))


@pytest.mark.parametrize(
    ("family", "bound"), [("gpt2", 1e-12), ("neox-parallel", 1e-12), ("neox-sequential", 1e-12), ("llama", 1e-6)]
)
def test_it_splits_by_parts_by_worlds_and_by_full_forwards(tiny, words, prompts, vector, family, bound):
    mechanisms, lookup = tiny(family), Lookup(None, {"truth": vector})
    inputs = _inputs(mechanisms, words, prompts)
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    found = cells(mechanisms.graph, nodes, ZERO)
    made = measure(mechanisms, inputs, found, graph=mechanisms.graph, outcome=Y, lookup=lookup)
    size = np.abs(made.te).max()
    assert size > 0.1 and made.delta_de.shape[-1] == (4 if "parallel" in family else 5)
    assert np.abs(made.arrays()["residual"]).max() < bound * size
    worlds, _ = measure_worlds(mechanisms, inputs, found, Y, lookup=lookup)
    for part in ("te", "de", "ce", "norm", "clean_direct", "clean_logit"):
        np.testing.assert_allclose(worlds[part], getattr(made, part), rtol=0, atol=bound * size, err_msg=part)
    planned = plan_sweep(mechanisms, found, inputs, outcome=Y)
    trace, plain = run(mechanisms, planned, inputs, lookup=lookup).values, run_plain(
        mechanisms, planned, inputs, lookup=lookup
    )  # fmt: skip
    for reading, table in plain.items():
        np.testing.assert_allclose(trace[reading], table, rtol=0, atol=bound * size, err_msg=str(reading))
    for row, ids in enumerate(inputs.ids):
        with torch.no_grad():
            normed = mechanisms.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert made.clean_logit[row] == pytest.approx(float(normed @ vector / vector.norm()), abs=1e-12)
    whole = split(PromptedModel(mechanisms, inputs, lookup), attn[1] @ last << zero, outcome=Y)
    assert whole.by_parts and np.abs(whole.residual).max() < bound * size
    np.testing.assert_allclose(whole.de_parts, made.de[:, nodes.index(found[2].node)], rtol=0, atol=bound * size)


def test_along_a_centred_row_of_the_unembedding_it_is_that_logit(tiny, words, prompts):
    """By the definition: norm gain and bias included, the vector's length taken out."""
    mechanisms = tiny("gpt2")
    head = mechanisms.readout.weight
    row = head[7] - head.mean(0)
    inputs = _inputs(mechanisms, words, prompts)
    readings = [Reading(NATURAL_WORLD, one) for one in (Y, Outcome("logit", (7,)))]
    planned = plan(mechanisms.graph, (), readings, inputs.shape)
    for scale in (1.0, -3.0):
        values = run(mechanisms, planned, inputs, lookup=Lookup(None, {"truth": scale * row})).values
        expected = np.sign(scale) * values[readings[1]] / float(row.norm())
        np.testing.assert_allclose(values[readings[0]], expected, rtol=0, atol=1e-12)


def test_of_a_capped_model_it_still_adds_up(words, prompts):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from causalnet.model.compile import compile_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        size = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
        model = Gemma2ForCausalLM(
            Gemma2Config(**size, num_key_value_heads=2, intermediate_size=24, final_logit_softcapping=1.5)
        )
    mechanisms = compile_model(model.double().eval().requires_grad_(False), name="capped")
    lookup = Lookup(None, {"truth": torch.ones(16).double() + torch.eye(16)[3]})
    scm = PromptedModel(mechanisms, _inputs(mechanisms, words, prompts), lookup)
    found = split(scm, mlp[0] @ last << zero, outcome=Y)
    assert found.by_parts and np.abs(found.residual).max() < 1e-6 * np.abs(found.te).max()


def test_the_face_takes_vectors_by_name(vector):
    model = cn.compile(model_path("plain"), dtype="float64")
    prompts = Prompts.from_file(prompts_path()).take(31)
    v = np.linspace(-1.0, 2.0, 128)
    on = model.on(prompts, vectors={"truth": v})
    parts = on.split(attn[3] @ last << zero, outcome=Y)
    asked = model.evaluate('TE(attn[3]@last = zero; projection("truth"))', prompts, vectors={"truth": v})
    assert parts["TE"].value == pytest.approx(asked.value, abs=1e-12)
    assert asked.units == "residual units (final norm's output along the vector)"
    told = model.evaluate('E[direct(attn[3], projection("truth"))]', prompts, vectors={"truth": v})
    gone = model.evaluate('DE(attn[3]@last = zero; projection("truth"))', prompts, vectors={"truth": v})
    assert told.value == pytest.approx(-gone.value, abs=1e-6)
    with pytest.raises(UnknownNameError, match=r"did you mean 'truth'"):
        model.evaluate('E[projection("trut")]', prompts, vectors={"truth": v})
    for wrong, said in ((np.ones(7), r"shape \(7,\)"), (np.zeros(128), "is zero"), (v * np.nan, "not finite")):
        with pytest.raises(InputError, match=said):
            model.evaluate('E[projection("truth")]', prompts, vectors={"truth": wrong})


def test_files_of_vectors_are_checked(tmp_path, vector):
    np.save(tmp_path / "v.npy", vector.numpy())
    save_file({"other": torch.ones(WIDTH), "truth": vector.float()}, tmp_path / "v.safetensors")
    save_file({"only": vector}, tmp_path / "one.safetensors")
    held = read_vectors([f"truth={tmp_path / 'v.npy'}"])["truth"]
    np.testing.assert_array_equal(held.values, vector.numpy())
    assert held.digest == read_vector("any", tmp_path / "one.safetensors").digest
    named = read_vector("truth", tmp_path / "v.safetensors")
    np.testing.assert_allclose(named.values, vector.numpy(), rtol=1e-6)
    assert named.digest != held.digest
    with pytest.raises(DataError, match="none of that name"):
        read_vector("third", tmp_path / "v.safetensors")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"no numbers")
    (tmp_path / "broken.safetensors").write_bytes(b"no numbers")
    np.save(tmp_path / "zero.npy", np.zeros(4))
    np.save(tmp_path / "nan.npy", np.array([1.0, np.nan]))
    np.save(tmp_path / "table.npy", np.ones((2, 3)))
    for name, said in (
        ("pickled.npy", "no readable .npy"), ("broken.npy", "no readable .npy"), ("zero.npy", "it is zero"),
        ("broken.safetensors", "no readable safetensors"), ("nan.npy", "NaN"), ("table.npy", r"of shape \(2, 3\)"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            read_vector("truth", tmp_path / name)
    (tmp_path / "v.txt").write_text("1 2 3")
    for text, said in (
        ("truth", "has no name or no file"), ("=v.npy", "has no name"), ("truth=nowhere.npy", "there is no such file"),
        (f"truth={tmp_path / 'v.txt'}", "neither .npy nor .safetensors"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read_vectors([text])
    with pytest.raises(InputError, match="given twice"):
        read_vectors(["a=x.npy", "a=y.npy"])


def test_the_study_splits_it_and_records_the_vector(tmp_path):
    np.save(tmp_path / "v.npy", np.linspace(-1.0, 2.0, 128))
    options = Options(donors=2, limit=31, outcomes=(str(Y),), vectors=(f"truth={tmp_path / 'v.npy'}",))
    ran = hydra([Arm("", PLAIN)], Prompts.from_file(prompts_path()), options=options, out=tmp_path / "run")
    place = "variants/outcome/projection_truth"
    summary = ran.results[0].variants[place]
    assert (summary["unit"], summary["by_responder"], summary["outcome"]) == ("residual units", True, str(Y))
    assert summary["closure_max_rel"] < 1e-4 and not ran.misfits
    assert "residual units" in " ".join(summary["findings"])
    data = load(ran.path / place / "effects.zarr")
    assert data.sizes["responder"] == 15
    digest = read_vector("truth", tmp_path / "v.npy").digest
    assert json.loads(data.attrs["run"])["arguments"]["question"]["vector"] == f"truth={digest}"
    sweeps = json.loads((ran.path / "plan.json").read_text())["sweeps"]
    assert [one["question"]["vector"] for one in sweeps] == ["", f"truth={digest}"]


def test_work_that_was_begun_with_another_vector_is_refused(tiny, words, prompts, vector, tmp_path):
    file = tmp_path / "v.npy"
    np.save(file, vector.numpy())
    options = Options(donors=2, outcomes=(str(Y),), vectors=(f"truth={file}",))
    question = Question(outcome=str(Y), vector=str(read_vector("truth", file)))
    one = subject(tiny("gpt2"), words, prompts, options)
    assert job(one, question, options).responders
    sweep_model(tiny("gpt2"), words, prompts, options, question=question)
    np.save(file, vector.numpy() + 1e-9)
    with pytest.raises(InputError, match="give the same vector"):
        job(one, question, options)
    np.save(file, np.ones(WIDTH + 1))
    with pytest.raises(InputError, match=r"shape \(25,\); legal: \(24,\)"):
        job(one, Question(outcome=str(Y), vector=str(read_vector("truth", file))), options)


def test_an_outcome_needs_its_vector():
    with pytest.raises(InputError, match=r"no vector 'truth' is given; did you mean 'truht'"):
        Options(outcomes=(str(Y),), vectors=("truht=v.npy",))
