"""The benchmarks run as they are started by hand, at the smallest size, and their numbers agree."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peers_players import PEERS

if not any(map(importlib.util.find_spec, PEERS)):
    pytest.skip("no peer is installed here; make test-peers runs this elsewhere", allow_module_level=True)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def start(script, *arguments):
    """Run a benchmark and return what it prints."""
    done = subprocess.run([sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_sweep_side_by_side():
    size = ("--layers=1", "--prompts=2", "--donors=2", "--tokens=4", "--threads=1", "--repeat=1", "--seconds=inf")
    printed = start("sweep.py", *size, "--shapes=llama-small", "--tools", "causalnet", "hooks", *PEERS)
    rows = [line.strip("| \n").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row[0].split()[0] for row in rows] == ["causalnet", "plain", "nnsight", "pyvene", "TransformerLens"]
    for row in rows[1:]:
        assert row[3] == "all"
        assert re.fullmatch(r"[\d.]+×", row[2])
        assert float(row[5]) < 2e-5, row


def test_paper_sweep():
    printed = start("paper.py", "--shape=scaled-down", "--prompts=4", "--donors=2")
    cells = dict(
        line.strip("|").split("|") for line in printed.splitlines() if line.startswith("| ") and "---" not in line
    )
    cells = {name.strip(): value.strip() for name, value in cells.items()}
    assert cells["counterfactuals"] == "4 prompts × 16 nodes × 2 donors = 128"
    plain = next(value for name, value in cells.items() if name.startswith("largest difference to plain"))
    assert float(plain.split()[0]) < 2e-5
