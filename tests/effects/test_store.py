import json
import warnings

import numpy as np
import pytest
import xarray as xr

from causalnet.effects import load, save
from causalnet.errors import DataError, InputError, RunExistsError

TEXTS = ["", "<script>alert('x')</script> & \"more\"", "Ünïcödé 漢字 \U0001f419", "nul\x00", "line\nbreak \\ tab\t"]


def test_texts_and_numbers_come_back_as_they_were(make_sweep, tmp_path):
    ds = make_sweep(prompts=5, missing=[2], text=TEXTS, target=TEXTS[::-1], model="modèle")
    assert save(ds, tmp_path / "effects.zarr") == tmp_path / "effects.zarr"
    xr.testing.assert_identical(load(tmp_path / "effects.zarr"), ds)
    assert list(load(tmp_path / "effects.zarr").data_vars) == list(ds.data_vars)


def test_plain_xarray_reads_the_names_without_a_warning(make_sweep, tmp_path):
    ds = make_sweep(prompts=5, text=TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(ds, tmp_path / "effects.zarr")
        with xr.open_zarr(tmp_path / "effects.zarr") as opened:
            assert opened["node"].values.tolist() == ["attn[0]", "mlp[0]", "attn[1]", "mlp[1]"]
            assert opened["text"].values.tolist() == TEXTS
            assert opened["te"].dtype == np.float32
            assert opened["target_id"].dtype == np.int64
            np.testing.assert_array_equal(opened["te"].sel(node="mlp[1]"), ds["te"].sel(node="mlp[1]"))


def test_a_loaded_result_can_be_saved_again(make_sweep, tmp_path):
    save(make_sweep(), tmp_path / "a.zarr")
    save(load(tmp_path / "a.zarr").isel(prompt=slice(0, 7)), tmp_path / "b.zarr")
    assert load(tmp_path / "b.zarr").sizes["prompt"] == 7


def test_an_existing_folder_is_kept_unless_told_otherwise(make_sweep, tmp_path):
    first, second = make_sweep(seed=1), make_sweep(seed=2)
    save(first, tmp_path / "effects.zarr")
    with pytest.raises(RunExistsError, match="exists already"):
        save(second, tmp_path / "effects.zarr")
    xr.testing.assert_identical(load(tmp_path / "effects.zarr"), first)
    save(second, tmp_path / "effects.zarr", overwrite=True)
    xr.testing.assert_identical(load(tmp_path / "effects.zarr"), second)
    assert [one.name for one in tmp_path.iterdir()] == ["effects.zarr"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_nothing_and_breaks_nothing(make_sweep, tmp_path, monkeypatch, stop):
    ds, real = make_sweep(), xr.Dataset.to_zarr
    save(ds, tmp_path / "old.zarr")

    def half(self, *args, **options):
        real(self, *args, **options)
        raise stop("stopped")

    monkeypatch.setattr(xr.Dataset, "to_zarr", half)
    with pytest.raises(stop):
        save(ds, tmp_path / "new.zarr")
    with pytest.raises(stop):
        save(make_sweep(seed=5), tmp_path / "old.zarr", overwrite=True)
    monkeypatch.undo()
    assert [one.name for one in tmp_path.iterdir()] == ["old.zarr"]
    xr.testing.assert_identical(load(tmp_path / "old.zarr"), ds)


def test_nothing_invalid_is_written(make_sweep, tmp_path):
    with pytest.raises(DataError, match="te"):
        save(make_sweep().drop_vars("te"), tmp_path / "effects.zarr")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_result_is_refused(make_sweep, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match="not a readable zarr folder"):
        load(tmp_path / "empty.zarr")
    save(make_sweep(), tmp_path / "effects.zarr")
    (tmp_path / "effects.zarr" / ".zmetadata").write_text("{")
    with pytest.raises(DataError, match="not a readable zarr folder"):
        load(tmp_path / "effects.zarr")


def test_codecs_that_run_code_are_refused(make_sweep, tmp_path):
    path = save(make_sweep(), tmp_path / "effects.zarr")
    array = path / "text" / ".zarray"
    content = json.loads(array.read_text())
    content["filters"] = [{"id": "pickle", "protocol": 5}]
    array.write_text(json.dumps(content))
    with pytest.raises(DataError, match="codec 'pickle' is not read"):
        load(path)
