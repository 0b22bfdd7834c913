"""Stores larger than memory: left on disk, read in parts, and held to the schema all the same."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr

from causalnet.effects import parts, save
from causalnet.effects.opening import fits, open_store, opened
from causalnet.errors import DataError, InputError


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let a few prompts be a block, so that small stores have several."""
    monkeypatch.setattr(parts, "_BLOCK", 1000)


@pytest.fixture
def path(make_sweep, tmp_path):
    return save(make_sweep(missing=[2, 30]), tmp_path / "effects.zarr")


def test_what_fits_is_read_and_the_rest_is_left_on_disk(path):
    size = opened(path).nbytes
    assert fits(path, 6 * size) and not fits(path, 6 * size - 1)
    held, left = open_store(path, 6 * size), open_store(path, 6 * size - 1)
    assert held["delta_de"].variable._in_memory
    assert not left["delta_de"].variable._in_memory
    xr.testing.assert_identical(left.load().drop_encoding(), held)


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("te", (3, 0, 0), np.nan, r"prompts 0 to 4, counted from 0: te\[3, 0, 0\] is nan"),
        ("de", (38, 1, 2), np.inf, r"prompts 35 to 39, counted from 35: de\[3, 1, 2\] is inf"),
        ("delta_de", (17, 0, 1, 3), 9.0, r"prompts 15 to 19, .* the sum of delta_de"),
        ("donors_used", (11,), 2, r"prompts 10 to 14, .* donors_used\[1\] is 2"),
        ("prompt", (39,), 0, "prompt holds the same number twice"),
    ],
)
def test_what_is_left_on_disk_follows_the_schema(path, name, place, value, said):
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    group[name][place] = value
    with pytest.raises(DataError, match=said):
        open_store(path, 1)


def test_what_is_no_result_is_refused_before_it_is_read(make_sweep, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_store(tmp_path / "none.zarr", 1)
    lacks = tmp_path / "lacks.zarr"
    make_sweep().drop_vars("delta_de").drop_encoding().to_zarr(lacks, zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match="variable 'delta_de' is missing"):
        open_store(lacks, 1)
    turned = make_sweep().transpose("node", ...)
    turned.drop_encoding().to_zarr(tmp_path / "turned.zarr", zarr_format=2, consolidated=True)
    with pytest.raises(DataError, match=r"has dimensions \['node', 'prompt'"):
        open_store(tmp_path / "turned.zarr", 1)


def test_codecs_that_run_code_are_refused_however_large_the_store(path):
    array = path / "text" / ".zarray"
    content = json.loads(array.read_text())
    content["filters"] = [{"id": "pickle", "protocol": 5}]
    array.write_text(json.dumps(content))
    with pytest.raises(DataError, match="codec 'pickle' is not read"):
        open_store(path, 1)
