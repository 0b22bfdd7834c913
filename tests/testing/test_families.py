"""Every law holds on every family that compiles."""

import zlib
from pathlib import Path

import pytest

from causalnet.errors import UnsupportedModelError
from causalnet.model.families import records
from causalnet.testing import LAWS, check_laws
from causalnet.testing.strategies import tiny_model

GRAPHS = Path(__file__).parents[2] / "graphs"
LISTED = {path.stem for path in GRAPHS.glob("*.graphml")}
FAMILIES = sorted(LISTED | {kind for record in records() for kind in record.model_types})
REFUSED = {"mamba", "mamba2", "falcon_mamba", "rwkv"}
# Sentences, intervals and closed forms are the same for every family.  That a plan answers what plain forwards do, and
# batches what single worlds do, the engine's own tests hold of every family.
EVERY = [name for name, one in LAWS.items() if one.needs != "nothing"]
CHOSEN = [name for name in EVERY if name not in ("language", "plan", "batch")]


@pytest.mark.parametrize("family", FAMILIES)
def test_laws_hold_on_every_family(family):
    if family in REFUSED:
        with pytest.raises(UnsupportedModelError):
            tiny_model(family)
        return
    # Other cases for each family, the same in every run.
    report = check_laws(tiny_model(family), laws=CHOSEN, cases=1, seed=zlib.crc32(family.encode()))
    assert report.holds, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REFUSED))
def test_laws_hold_on_every_family_in_many_cases(family):
    report = check_laws(tiny_model(family), laws=EVERY, profile="ci")
    assert report.holds, str(report)
