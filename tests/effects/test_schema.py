import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from causalnet.effects import summarise
from causalnet.effects.schema import (
    ATTRIBUTES,
    COORDINATES,
    RUN_KEYS,
    SCHEMA,
    VARIABLES,
    select,
    to_dataframe,
    validate,
)
from causalnet.errors import DataError, UnknownNameError

DOCS = Path(__file__).parents[2] / "docs" / "schema.md"


def rows(heading):
    """Cells of the table under a heading of docs/schema.md."""
    section = DOCS.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("heading", "table"), [("Coordinates", COORDINATES), ("Variables", VARIABLES)])
def test_prose_and_data_are_one_schema(heading, table):
    written = [(name, tuple(dims.split()), kind, units, meaning) for name, dims, kind, units, meaning in rows(heading)]
    assert written == [(v.name, v.dims, v.kind, v.units, v.long_name) for v in table.values()]


def test_prose_holds_every_attribute_and_run_key():
    assert dict(rows("Attributes")) == ATTRIBUTES
    assert tuple(name for name, _ in rows("The run record")) == RUN_KEYS
    assert SCHEMA in DOCS.read_text(encoding="utf-8")


def test_prose_explains_every_key_of_the_summary(make_sweep):
    summary = summarise(make_sweep(), bootstrap=50, permutations=20)
    for heading, keys in (
        ("summary.json", summary),
        ("Each node", summary["nodes"][0]),
        ("Each group of pooled", summary["pooled"]["all"]),
    ):
        written = {name for row in rows(heading) for name in re.split(r"`?, `?", row[0])}
        # The interval of a number is named after it; the tables mark such numbers by ±.
        marked = {name for row in rows(heading) if row[1].startswith("±") for name in re.split(r"`?, `?", row[0])}
        assert written | {f"{name}_ci" for name in marked} == set(keys), heading


def test_builder_follows_the_schema(make_sweep):
    ds = make_sweep(missing=[2])
    validate(ds)
    assert set(ds.data_vars) == set(VARIABLES)
    assert set(ds.coords) == set(COORDINATES)
    assert ds["te"].dtype == np.float32
    assert ds["donors_used"].values[:4].tolist() == [3, 3, 2, 3]
    assert np.isnan(ds["ce"].values[2, :, 2]).all()
    assert ds.attrs["donor_pool"] == "prompts"
    assert make_sweep(ablation="zero").attrs["donor_pool"] == "none"
    assert make_sweep(dtype="float64")["te"].dtype == np.float64


def test_builder_sums_in_float64(make_sweep):
    ds = make_sweep(restored=0.5, dtype="float64")
    np.testing.assert_allclose(ds["ce"].values, ds["delta_de"].values.sum(-1), atol=1e-12)
    np.testing.assert_allclose(ds["residual"].values, 0, atol=1e-12)


def test_draws_need_no_donors(make_sweep):
    """A noise ablation draws, but from no prompt."""
    ds = make_sweep(donor_index=np.full((40, 3), -1), ablation="resample")
    assert ds.attrs["donor_pool"] == "none"
    assert ds["donors_used"].values.tolist() == [0] * 40
    with pytest.raises(DataError, match=r"te\[1, 0, 2\] is nan; it needs a finite number"):
        make_sweep(donor_index=np.full((40, 3), -1), missing=[1])


def change(ds, name, **entries):
    """A copy with some entries of one variable replaced."""
    ds = ds.copy(deep=True)
    for place, value in entries.values():
        ds[name].values[place] = value
    return ds


BROKEN = {
    "variable missing": (lambda ds: ds.drop_vars("te"), r"variable 'te' is missing"),
    "coordinate missing": (lambda ds: ds.drop_vars("node"), r"coordinate 'node' is missing"),
    "dimension order": (lambda ds: ds.assign(te=ds["te"].transpose("node", "prompt", "donor")), r"te has dimensions"),
    "type": (lambda ds: ds.assign(target_id=ds["target_id"].astype(float)), r"target_id is float64"),
    "half precision": (lambda ds: ds.assign(te=ds["te"].astype(np.float16)), r"te is float16"),
    "text type": (lambda ds: ds.assign(text=ds["target_id"]), r"text\[0\] is int, not text"),
    "units": (lambda ds: ds.assign(te=ds["te"].assign_attrs(units="bits")), r"te is in 'bits'"),
    "no units": (lambda ds: ds.assign(te=ds["te"].drop_attrs(deep=False)), r"te has no attribute 'units'"),
    "unknown node": (
        lambda ds: ds.assign_coords(node=("node", ["atn[0]", "b", "c", "d"], ds["node"].attrs)),
        r"node\[0\]",
    ),
    "node twice": (
        lambda ds: ds.assign_coords(node=("node", ["attn[0]"] * 4, ds["node"].attrs)),
        "'attn\\[0\\]' twice",
    ),
    "prompt twice": (lambda ds: ds.assign_coords(prompt=ds["prompt"] * 0), "prompt"),
    "NaN": (lambda ds: change(ds, "te", a=((0, 1, 0), np.nan)), r"te\[0, 1, 0\] is nan; it needs a finite number"),
    "infinite": (lambda ds: change(ds, "norm", a=((0, 1, 0), np.inf)), r"norm\[0, 1, 0\] is inf"),
    "number beyond the donors": (
        lambda ds: change(ds, "de", a=((2, 0, 2), 1.0)),
        r"de\[2, 0, 2\] is 1.0; it needs NaN",
    ),
    "infinity beyond the donors": (lambda ds: change(ds, "de", a=((2, 0, 2), np.inf)), r"de\[2, 0, 2\] is inf"),
    "clean NaN": (lambda ds: change(ds, "clean_logit", a=(3, np.nan)), r"clean_logit\[3\] is nan"),
    "ce": (lambda ds: change(ds, "ce", a=((0, 1, 0), 9.0)), r"ce\[0, 1, 0\] is 9, but the sum of delta_de"),
    "residual": (lambda ds: change(ds, "residual", a=((0, 1, 0), 9.0)), r"residual\[0, 1, 0\] is 9, but te - de"),
    "own donor": (
        lambda ds: change(ds, "donor_index", a=((5, 0), 5)),
        r"donor_index\[5\]: the prompt is its own donor",
    ),
    "donor gap": (lambda ds: change(ds, "donor_index", a=((5, 0), -1)), r"donor_index\[5, 0\] is -1"),
    "too many used": (lambda ds: change(ds, "donors_used", a=(5, 9)), r"donors_used\[5\] is 9, outside 0 to 3"),
    "no donor": (
        lambda ds: change(change(ds, "donors_used", a=(5, 0)), "donor_index", a=(5, -1)),
        r"donors_used\[5\] is 0: the prompt has no donor",
    ),
    "attribute missing": (lambda ds: ds.assign_attrs(expression=""), r"attribute 'expression' is empty"),
    "other schema": (lambda ds: ds.assign_attrs(schema="causalnet-sweep/99"), r"causalnet-sweep/99"),
    "pool": (lambda ds: ds.assign_attrs(donor_pool="prompt"), r"did you mean 'prompts'"),
    "run not JSON": (lambda ds: ds.assign_attrs(run="{"), r"'run' is not JSON"),
    "run incomplete": (
        lambda ds: ds.assign_attrs(run='{"seed": 0}'),
        r"'run' lacks versions, dtype, device, arguments",
    ),
    "surrogate": (lambda ds: change(ds, "text", a=(1, "\ud800")), r"text\[1\] is not valid Unicode"),
    "empty": (lambda ds: ds.isel(prompt=slice(0, 0)), r"'prompt' is empty"),
    "responder that adds nothing": (
        lambda ds: ds.assign_coords(
            responder=("responder", ["norm", "mlp[0]", "attn[1]", "mlp[1]"], ds["responder"].attrs)
        ),
        r"responder\[0\]: 'norm' adds nothing",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_validation_names_what_is_wrong(case, make_sweep):
    breaking, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        validate(breaking(make_sweep(missing=[2])))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clean_logit": np.zeros(3)}, r"clean_logit has size 3 along 'prompt', which has size 40"),
        ({"nodes": ["attn[0]"]}, r"along 'node', which has size 1"),
        ({"norm": np.zeros((40, 4))}, r"norm has shape \(40, 4\)"),
        ({"clean_direct": np.zeros(40)}, r"clean_direct has 1 axes"),
        ({"run": {"seed": object()}}, r"'run' cannot be written as JSON"),
        ({"target": [1] * 40}, r"target\[0\] is int, not text"),
    ],
)
def test_builder_refuses_what_does_not_fit(more, message, make_sweep):
    with pytest.raises(DataError, match=message):
        make_sweep(**more)


def test_rounding_of_float32_is_no_violation(make_sweep):
    ds = make_sweep(restored=0.3, noise=100.0)
    validate(ds.assign(ce=ds["delta_de"].sum("responder").assign_attrs(ds["ce"].attrs)))


def test_a_subset_of_prompts_is_still_valid(make_sweep):
    validate(make_sweep().isel(prompt=slice(3, 9)))


def test_long_tables(make_sweep):
    ds = make_sweep(prompts=5, missing=[2])
    table = to_dataframe(ds)
    assert len(table) == 5 * 4 * 3 - 4
    row = table[(table.prompt == 3) & (table.node == "mlp[0]") & (table.donor == 1)].iloc[0]
    assert row.te == ds["te"].sel(prompt=3, node="mlp[0]", donor=1).item()
    assert row.clean_direct == ds["clean_direct"].sel(prompt=3, node="mlp[0]").item()
    assert row.text == "prompt 3 is"
    long = to_dataframe(ds, responders=True)
    assert len(long) == 4 * len(table)
    one = long[(long.prompt == 3) & (long.node == "mlp[0]") & (long.donor == 1) & (long.responder == "mlp[1]")].iloc[0]
    assert one.delta_de == ds["delta_de"].sel(prompt=3, node="mlp[0]", donor=1, responder="mlp[1]").item()


def test_selection_by_name(make_sweep):
    ds = make_sweep()
    xr.testing.assert_identical(select(ds, node="mlp[0]", prompt=[1, 2]), ds.sel(node="mlp[0]", prompt=[1, 2]))
    with pytest.raises(UnknownNameError, match=r"no node 'mpl\[0\]'; did you mean 'mlp\[0\]'"):
        select(ds, node="mpl[0]")
    with pytest.raises(UnknownNameError, match=r"no dimension 'nodes'; did you mean 'node'"):
        select(ds, nodes="mlp[0]")


def test_the_run_record_reads_back(make_sweep):
    assert json.loads(make_sweep().attrs["run"])["device"] == "cpu"
