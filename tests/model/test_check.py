"""The check itself: it holds where it should, and sees what is wrong."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from causalnet.errors import CompileError
from causalnet.graph import Node
from causalnet.model import check as check_module
from causalnet.model import edges
from causalnet.model.bind import bind
from causalnet.model.check import CheckReport, Misfit, check, observe, tolerance_of
from causalnet.model.compile import compile_model
from causalnet.model.edges import EdgeReport, check_edges
from causalnet.model.families import record_for
from causalnet.model.load import load_model
from causalnet.model.observe import held, random_ids
from causalnet.model.record import Family, Part

STORIES = Path("../shared/models/stories260K")


def misfits(model, record):
    return {row.what for row in check(bind(model, record)).rows if not row.holds}


@pytest.fixture(scope="module")
def stories():
    if not STORIES.is_dir():
        pytest.skip("the small public checkpoint is not on this machine")
    return load_model(STORIES)


def test_stories_compiles_and_checks(stories):
    mechanisms = compile_model(stories, granularity="head")
    report = check(mechanisms)
    assert report.holds
    assert report.model.endswith("stories260K")
    assert mechanisms.graph.layers == 5
    assert mechanisms.graph.blocks[0].heads == 8
    assert check_edges(compile_model(stories, verify=False)).holds


def test_a_wrong_scale_is_seen(small):
    model, record = small("llama"), Family(("llama",))
    wrong = replace(record, mlp=(replace(record.mlp[0], scale=0.99),))
    assert "the sum of the contributions" in misfits(model, wrong)
    assert misfits(model, replace(record, logit_scale=1.001)) == {"the readout of the final stream"}


def test_a_wrong_block_kind_is_seen(small):
    assert {"what mlp[0] reads"} <= misfits(small("llama"), Family(("llama",), parallel=True))
    neox = replace(record_for(small("gpt_neox").config), parallel=False)
    assert {"what mlp[0] reads"} <= misfits(small("gpt_neox"), neox)


def test_a_wrong_source_is_seen(small):
    record = record_for(small("gemma2").config)
    before_norm = replace(record, attn=(replace(record.attn[0], source=""),))
    assert "the sum of the contributions" in misfits(small("gemma2"), before_norm)


def test_a_wrong_softcap_and_a_wrong_norm_are_seen(small):
    record = record_for(small("gemma2").config)
    assert "the readout of the final stream" in misfits(small("gemma2"), replace(record, softcap=""))
    other = replace(Family(("llama",)), norm="model.layers.0.input_layernorm")
    assert "the readout of the final stream" in misfits(small("llama"), other)


def test_a_wrong_window_is_seen(small):
    model = copy.deepcopy(small("mistral"))
    mechanisms = compile_model(model)
    assert [block.window for block in mechanisms.graph.blocks] == [6, 6]
    narrow = replace(mechanisms, graph=compile_model(small("mistral", sliding_window=None)).graph)
    assert check(narrow).holds, "a window that is not claimed is not held against the model"
    wide = compile_model(small("mistral", sliding_window=None))
    claimed = replace(wide, graph=mechanisms.graph)
    assert {row.what for row in check(claimed).rows if not row.holds} == {
        "attn[0] sees its window only",
        "attn[1] sees its window only",
    }


def test_a_record_for_another_build_of_the_family_falls_back_to_discovery(fresh):
    """A family whose modules were renamed is still found."""
    model = fresh("llama")
    for layer in model.model.layers:
        layer.feed = layer._modules.pop("mlp")
        layer.__dict__["mlp"] = layer.feed
    mechanisms = compile_model(model)
    assert mechanisms.found == "discovery"
    assert check(mechanisms).holds


def test_missing_modules_are_named(small):
    with pytest.raises(CompileError, match=r"expects 'model\.ln' in LlamaForCausalLM, which has model, lm_head"):
        bind(small("llama"), Family(("llama",), norm="model.ln"))
    with pytest.raises(
        CompileError, match="layer 0: the record of llama describes neither part of it; it has self_attn"
    ):
        bind(small("llama"), Family(("llama",), attn=(Part("attention"),), mlp=(Part("ffn"),)))


def test_tolerances_follow_the_dtype(small):
    def tolerance(kind, dtype):
        mechanisms = compile_model(copy.deepcopy(small(kind)).to(dtype), verify=False)
        return tolerance_of(mechanisms, random_ids(mechanisms, prompts=1, tokens=6, seed=0))

    assert tolerance("llama", torch.float32) == 2e-5
    assert tolerance("gpt2", torch.float64) == 1e-9
    assert tolerance("llama", torch.float64) == 1e-6, "its norms compute in float32, which is measured"
    assert tolerance("llama", torch.bfloat16) == 1e-1
    assert tolerance("llama", torch.float16) == 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mixtral"])
def test_half_precision(small, kind, dtype):
    assert check(compile_model(copy.deepcopy(small(kind)).to(dtype))).holds


def test_huge_coordinates_hide_nothing(fresh):
    """A few massive activations do not make the misfit of all the others small."""
    model = fresh("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] += 1e4
    assert compile_model(model).found == "record"
    record = Family(("llama",), mlp=(Part("mlp", norm="post_attention_layernorm", scale=0.99),))
    assert "the sum of the contributions" in misfits(model, record)


def test_report():
    good, bad = Misfit("this", 1, 1e-7, 1e-5), Misfit("that", None, 2e-2, 1e-5)
    nan = Misfit("other", 0, float("nan"), 1e-5)
    assert CheckReport("m", (good,)).holds
    assert CheckReport("m", (good,)).misfit == ""
    assert not CheckReport("m", (good, nan)).holds
    report = CheckReport("m", (good, bad))
    assert report.worst is bad
    assert CheckReport("m", (bad, nan)).worst is nan
    assert report.summary == (good, bad)
    with pytest.raises(CompileError, match=r"m: .*that misses by 2\.00e-02 \(relative; tolerance 1e-05\)"):
        report.raise_on_misfit()


def test_edges_see_a_wrong_graph(small):
    """A parallel model under a sequential graph, and the other way round."""
    parallel, sequential = (
        compile_model(small("gpt_neox")),
        compile_model(small("gpt_neox", use_parallel_residual=False)),
    )
    swapped = replace(parallel, graph=sequential.graph)
    failed = {(str(row.source), str(row.target)) for row in check_edges(swapped).failed}
    assert failed == {("attn[0]", "mlp[0]"), ("attn[1]", "mlp[1]")}
    swapped = replace(sequential, graph=parallel.graph)
    report = check_edges(swapped)
    assert {(str(row.source), str(row.target)) for row in report.failed} == {
        ("attn[0]", "mlp[0]"),
        ("attn[1]", "mlp[1]"),
    }
    assert report.summary["absent edges that moved something"] == 2


def test_edge_rows():
    a, b = Node("attn", 0), Node("mlp", 0)
    assert edges.TestedEdge(a, b, True, 1e-3, 1e-5).holds
    assert not edges.TestedEdge(a, b, True, 0.0, 1e-5).holds
    assert edges.TestedEdge(a, b, False, 0.0, 1e-5).holds
    assert not edges.TestedEdge(a, b, False, 1e-12, 1e-5).holds, "an absent edge moves nothing, exactly"
    assert not EdgeReport("m", (edges.TestedEdge(a, b, True, float("nan"), 1e-5),)).holds


def test_an_edge_that_moves_nothing_is_seen(fresh):
    model = fresh("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    report = check_edges(compile_model(model))
    assert {str(row.target) for row in report.failed} == {"mlp[1]"}


def test_held_passes_hold(small):
    mechanisms = compile_model(small("gpt2"))
    ids = random_ids(mechanisms, prompts=2, tokens=7, seed=4)
    natural = observe(mechanisms, ids)
    again = held(mechanisms, natural, {})
    for name, value in natural.contributions.items():
        assert torch.equal(again.contributions[name], value)
    shift = torch.ones_like(natural.streams[0])
    moved = held(mechanisms, natural, {"attn[1]": shift})
    assert torch.equal(moved.contributions["attn[0]"], natural.contributions["attn[0]"])
    assert not torch.equal(moved.contributions["attn[1]"], natural.contributions["attn[1]"])
    assert torch.equal(moved.reads["attn[1]"], natural.reads["attn[1]"] + shift)


def test_models_are_left_as_they_were(small):
    model = small("gemma2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compile_model(model)
    check_edges(compile_model(model))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if isinstance(m, nn.Linear))


def silenced(model, how):
    """Give a model logits that are all 0, or that are sums which cancel: on the tokens of the check."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(model.get_output_embeddings().weight.shape[1], model.config.vocab_size, bias=False)
    head = head.to(next(model.parameters()).dtype).eval()
    mechanisms = compile_model(model, verify=False)
    with torch.no_grad():
        natural = observe(mechanisms, random_ids(mechanisms, prompts=2, tokens=12, seed=0))
        read = mechanisms.readout.norm(natural.streams[-1]).flatten(0, 1).double()
    seen = torch.linalg.qr(read.T).Q
    with torch.no_grad():
        weight = head.weight.double()
        head.weight.copy_(torch.zeros_like(weight) if how == "zero" else weight - (weight @ seen) @ seen.T)
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = False
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("how", ["zero", "cancelling"])
def test_logits_that_are_nothing_but_rounding_are_no_misfit(fresh, how, kind, dtype):
    model = silenced(fresh(kind).to(dtype), how)
    mechanisms = compile_model(model)
    logits = model(input_ids=random_ids(mechanisms, prompts=2, tokens=12, seed=0)).logits
    assert float(logits.detach().abs().max()) < 10 * torch.finfo(dtype).eps
    assert check(mechanisms).holds
    # What is wrong all the same is seen, unless nothing reads it.
    gain = mechanisms.readout.norm.gain.clone()
    gain[::2] *= 1.5
    odd = replace(mechanisms.readout.norm, gain=gain)
    rows = check(replace(mechanisms, readout=replace(mechanisms.readout, norm=odd))).rows
    wrong = {row.what for row in rows if not row.holds}
    assert wrong == (set() if how == "zero" else {"direct effects plus constants"})


def test_a_part_that_is_missed_is_seen_where_no_logit_has_a_size(fresh):
    record = Family(("llama",))
    wrong = replace(record, mlp=(replace(record.mlp[0], scale=0.999),))
    assert misfits(silenced(fresh("llama"), "cancelling"), wrong) == {
        "the sum of the contributions",
        "direct effects plus constants",
    }
    assert misfits(silenced(fresh("llama"), "zero"), wrong) == {"the sum of the contributions"}


def test_the_room_for_rounding_is_never_what_an_ordinary_model_is_held_to(small, monkeypatch):
    room = []
    plain = check_module._rounding
    monkeypatch.setattr(
        check_module, "_rounding", lambda *given: room.append((plain(*given), given[-1])) or room[-1][0]
    )
    for kind in ("llama", "gpt2", "gemma2", "cohere", "gptj", "bloom"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            mechanisms = compile_model(copy.deepcopy(small(kind)).to(dtype), verify=False)
            ids = random_ids(mechanisms, prompts=2, tokens=12, seed=0)
            assert check(mechanisms).holds
            with torch.no_grad():
                logits = mechanisms.readout.precap_logits(observe(mechanisms, ids).streams[-1])
                size = float(logits[:, -1].abs().max())
            allowed, tolerance = room[-1]
            assert allowed < size * tolerance / 2, (kind, dtype)
