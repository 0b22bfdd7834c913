"""What is not asked for is not loaded: checked in fresh processes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("dowhy", "y0", "hypothesis", "econml", "sklearn", "statsmodels")


def loaded(code, names, tmp_path):
    """Run code in a fresh process and return which of these packages it loaded."""
    script = f"{code}\nimport sys\nprint('loaded:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


def test_importing_loads_none_of_them(tmp_path):
    assert loaded("import causalnet", (*HEAVY, "torch"), tmp_path) == []


def test_importing_the_bridges_loads_none_of_them(tmp_path):
    code = "import causalnet.interop.dowhy, causalnet.interop.y0"
    assert loaded(code, ("dowhy", "y0", "hypothesis"), tmp_path) == []


def test_the_probe_can_answer(tmp_path):
    assert loaded("import hypothesis", ("dowhy", "y0", "hypothesis"), tmp_path) == ["hypothesis"]


def test_a_whole_hydra_run_loads_none_of_them(tmp_path):
    model = ROOT.parent / "shared" / "models" / "stories260K"
    if not model.is_dir():
        pytest.skip("the stories260K checkpoint is not here")
    texts = "\n".join(
        f"{start} {end}" for start in ("Once upon a", "The big", "Lily and the") for end in ("girl", "cat", "tree")
    )
    (tmp_path / "prompts.txt").write_text(texts)
    arguments = [
        "hydra",
        "--model",
        str(model),
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--limit",
        "6",
        "--out",
        "study",
    ]
    code = (
        f"from causalnet.cli.main import main\ntry:\n    main({arguments!r})\n"
        "except SystemExit as end:\n    assert not end.code, end.code"
    )
    assert loaded(code, ("dowhy", "y0", "hypothesis"), tmp_path) == []
