"""The pytest plugin, in runs of its own."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = "causalnet.testing.plugin"
RUN = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
# Installed, pytest finds it by itself, and refuses to be told twice.
RUN += [] if any(one.value == PLUGIN for one in entry_points(group="pytest11")) else ["-p", PLUGIN]

FIXTURES = """
from hypothesis import given, settings
from hypothesis import strategies as st

def test_fixtures(strategies, law, assert_laws, check_decomposition, tiny_model):
    network = strategies.field_networks()
    assert law("null").number == 1
    assert assert_laws(tiny_model("gpt2"), laws=["null"], cases=2).holds
    assert callable(check_decomposition)

@given(number=st.integers())
def test_the_profile(number):
    assert settings().max_examples == 6
    assert settings().deadline is None

def test_that_fails(assert_laws, tiny_model):
    from dataclasses import replace
    from causalnet.graph import CausalGraph

    model = tiny_model("gpt2")
    blocks = [replace(block, parallel=True) for block in model.graph.blocks]
    assert_laws(replace(model, graph=CausalGraph.from_blocks(blocks)), laws=["positions"], cases=12)
"""
LIGHT = """
import sys

def test_nothing_heavy_is_loaded():
    loaded = {"torch", "transformers", "hypothesis", "dowhy"} & set(sys.modules)
    assert "causalnet.testing.plugin" in sys.modules
    assert not loaded, loaded
"""


@pytest.fixture
def run(tmp_path):
    def call(text, *options):
        (tmp_path / "test_own.py").write_text(text)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        return subprocess.run(
            [*RUN, *options, "test_own.py"], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call


def test_fixtures_and_a_profile_and_a_law_that_fails_with_its_report(run):
    found = run(FIXTURES, "--causalnet-profile", "quick")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "1 failed, 2 passed" in found.stdout
    assert "AssertionError: law" in found.stdout
    assert "the block is parallel, and attn[" in found.stdout
    assert "on tokens" in found.stdout


def test_a_run_that_does_not_use_it_loads_nothing(run):
    found = run(LIGHT)
    assert found.returncode == 0, found.stdout + found.stderr


def test_profiles(run):
    from hypothesis import settings

    from causalnet.testing.plugin import load_profile
    from causalnet.testing.report import PROFILES

    before = settings.get_current_profile_name()
    try:
        for name, count in PROFILES.items():
            load_profile(name)
            assert settings().max_examples == count
            assert settings().derandomize == (name != "thorough")
        with pytest.raises(pytest.UsageError, match="legal: quick, ci, thorough"):
            load_profile("slow")
    finally:
        settings.load_profile(before)
    found = run(FIXTURES, "--causalnet-profile", "slow")
    assert found.returncode == 4
    assert "invalid choice: 'slow'" in found.stderr


def test_causalnet_itself_loads_no_hypothesis():
    code = "import sys, causalnet, causalnet.testing; assert not {'hypothesis', 'torch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
