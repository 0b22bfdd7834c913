import json

import pytest

from causalnet.errors import InputError, RunExistsError
from causalnet.studies.folder import default_folder, fresh_folder, refuse_existing, write_json


def _run(path, text="old"):
    """A folder that looks like a run of one model."""
    (path / "effects.zarr").mkdir(parents=True)
    (path / "summary.json").write_text(text)
    return path


def _fill(folder, text="new"):
    (folder / "effects.zarr").mkdir()
    (folder / "summary.json").write_text(text)


def _attempt(path, stop=None, *, overwrite=False, meanwhile=lambda: None):
    with fresh_folder(path, overwrite=overwrite) as folder:
        _fill(folder)
        meanwhile()
        if stop is not None:
            raise stop


def test_a_folder_appears_whole(tmp_path):
    with fresh_folder(tmp_path / "a" / "b" / "run", overwrite=False) as folder:
        _fill(folder)
        assert not (tmp_path / "a" / "b" / "run").exists()
    assert [one.name for one in (tmp_path / "a" / "b").iterdir()] == ["run"]
    assert (tmp_path / "a" / "b" / "run" / "summary.json").read_text() == "new"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_of_an_interrupted_run(tmp_path, stop):
    with pytest.raises(stop):
        _attempt(tmp_path / "a" / "run", stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_old_run_survives_an_interrupted_new_one(tmp_path, stop):
    old = _run(tmp_path / "run")
    with pytest.raises(stop):
        _attempt(old, stop, overwrite=True)
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
    assert (old / "summary.json").read_text() == "old"


@pytest.mark.parametrize("moment", ["first", "second"])
def test_an_old_run_survives_an_interrupt_between_the_renames(tmp_path, monkeypatch, moment):
    old, calls = _run(tmp_path / "run"), []
    rename = type(old).rename

    def interrupted(self, target):
        calls.append(target)
        done = rename(self, target)
        if len(calls) == (1 if moment == "first" else 2):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(type(old), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _attempt(old, overwrite=True)
    monkeypatch.undo()
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
    # Whichever it is, it is whole.
    assert (old / "summary.json").read_text() == ("old" if moment == "first" else "new")
    assert (old / "effects.zarr").is_dir()


def test_a_run_is_replaced_only_when_asked(tmp_path):
    old = _run(tmp_path / "run")
    with pytest.raises(RunExistsError, match="give --overwrite"), fresh_folder(old, overwrite=False):
        pass
    with fresh_folder(old, overwrite=True) as folder:
        _fill(folder)
        assert (old / "summary.json").read_text() == "old"
    assert (old / "summary.json").read_text() == "new"
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "run").mkdir()
    with fresh_folder(tmp_path / "run", overwrite=False) as folder:
        _fill(folder)
    assert (tmp_path / "run" / "summary.json").read_text() == "new"


def test_only_runs_are_replaced(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    for overwrite, error in ((False, RunExistsError), (True, InputError)):
        with pytest.raises(error, match="not a run"):
            refuse_existing(tmp_path / "notes", overwrite=overwrite)


def test_a_folder_of_runs_is_not_a_run(tmp_path):
    _run(tmp_path / "runs" / "monday")
    with pytest.raises(InputError, match="not a run"):
        refuse_existing(tmp_path / "runs", overwrite=True)
    # Several models in one run are told apart from several runs by their comparison.
    (tmp_path / "runs" / "comparison.json").write_text("{}")
    refuse_existing(tmp_path / "runs", overwrite=True)


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="this is a file"):
        refuse_existing(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match="cannot be written"), fresh_folder(tmp_path / "file" / "run", overwrite=False):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_a_place_that_filled_up_meanwhile_is_not_touched(tmp_path):
    with pytest.raises(RunExistsError, match="cannot be put in place"):
        _attempt(tmp_path / "run", meanwhile=lambda: _run(tmp_path / "run", "theirs"))
    assert (tmp_path / "run" / "summary.json").read_text() == "theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_the_current_folder_can_be_the_place(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    from pathlib import Path

    with fresh_folder(Path(), overwrite=False) as folder:
        _fill(folder)
    assert (tmp_path / "here" / "summary.json").read_text() == "new"


def test_default_folders_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_folder("hydra")
    assert first.parts[0] == "runs"
    assert first.name.startswith("hydra-2")
    first.mkdir(parents=True)
    assert default_folder("hydra") != first


def test_json_refuses_what_is_not_a_number(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1.5, "ü"], "a": None})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"b": [1.5, "ü"], "a": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
