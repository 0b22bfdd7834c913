"""What the README says of the embedded models, held against the whole study of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.effects import findings, summarise
from causalnet.effects.comparison import compare
from causalnet.model.compile import compile_model
from causalnet.model.load import load_model, load_tokenizer
from causalnet.prompts import Prompts
from causalnet.studies.hydra import Options, sweep_model

README = " ".join((Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split())
MIDDLE = [f"attn[{layer}]" for layer in range(1, 7)]


@pytest.fixture(scope="module")
def arms():
    """Data and summary of both arms, with the command's defaults."""
    prompts = Prompts.from_file(prompts_path())
    found = {}
    for name in ARMS:
        mechanisms = compile_model(load_model(model_path(name)), name=name)
        data = sweep_model(mechanisms, load_tokenizer(model_path(name)), prompts, Options())
        found[name] = data, summarise(data)
    return found


def _nodes(summary):
    return {node["name"]: node for node in summary["nodes"]}


def _said(words):
    """The numbers that the README puts in place of every #."""
    pattern = re.escape(words).replace(r"\#", r"([\d.]+)")
    found = re.search(pattern, README)
    assert found, f"the README no longer says: {words}"
    return [float(one.rstrip(".")) for one in found.groups()]


def test_the_dropped_arm_compensates(arms):
    nodes = _nodes(arms["dropped"][1])
    slopes, r2 = ([nodes[name][key] for name in MIDDLE] for key in ("slope", "r2"))
    low, high, least, most = _said("slopes # to # (R² # to #), and the total effect is smaller than the direct one")
    assert (round(min(slopes), 2), round(max(slopes), 2)) == (low, high)
    assert (round(min(r2), 2), round(max(r2), 2)) == (least, most)
    for name in MIDDLE:
        assert nodes[name]["slope_ci"][0] > 0.3
        assert nodes[name]["p_holm"] < 0.01
        assert nodes[name]["de"] < nodes[name]["te"] < 0
        assert nodes[name]["ce_attn"] > 0 or name == "attn[6]"


def test_the_plain_arm_breaks(arms):
    nodes = _nodes(arms["plain"][1])
    slopes = [nodes[name]["slope"] for name in MIDDLE]
    ratios = [nodes[name]["te"] / nodes[name]["de"] for name in MIDDLE]
    low, high, most, least_ratio, most_ratio = _said(
        "the same slopes are # to # (R² # at most), and the total effect is # to # times"
    )
    assert (round(min(slopes), 2), round(max(slopes), 2)) == (low, high)
    assert max(nodes[name]["r2"] for name in MIDDLE) < most + 0.005
    assert (round(min(ratios), 1), round(max(ratios), 1)) == (least_ratio, most_ratio)


def test_the_arms_are_told_apart(arms):
    (plain, plain_summary), (dropped, dropped_summary) = arms["plain"], arms["dropped"]
    comparison = compare(plain_summary, plain, dropped_summary, dropped, names=ARMS)
    differences = {node["name"]: node for node in comparison["nodes"]}
    for name in MIDDLE[:5]:
        assert differences[name]["slope_ci"][0] > 0, name
        assert differences[name]["slope_p_holm"] < 0.05, name
    assert comparison["prompts"] == comparison["same_target"] == plain.sizes["prompt"] >= 1000


def test_no_mean_response_is_positive_and_the_findings_say_so(arms):
    for name, (data, summary) in arms.items():
        assert all(node["ce"] <= 0 for node in summary["nodes"])
        said = findings(summary)
        assert len(said) == 5
        assert said[0].startswith("No net compensation"), name
        assert summary["closure_max_rel"] < 1e-4
        assert data.sizes["donor"] == 15
        assert np.isfinite(data["te"]).all()
