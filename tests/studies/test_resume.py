"""A run that is stopped at any moment goes on to the same bytes of data, and only with the same question."""

import json
import random
import shutil
import time

import numpy as np
import pytest

from causalnet.demo import model_path, prompts_path
from causalnet.effects import load
from causalnet.errors import InputError, RunExistsError
from causalnet.prompts import Prompts
from causalnet.studies import worker as study
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.models import Models
from causalnet.studies.plan import read_plan

PLAIN = str(model_path("plain"))
ASKED = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 32, "--donors", 3, "--chunk", 5, "--quiet")
ASKED += ("--ablation", "resample", "--ablation", "zero")


def _data(path):
    """Every byte of every data set of a run."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for store in sorted(path.rglob("effects.zarr"))
        for one in sorted(store.rglob("*"))
        if one.is_file()
    }


@pytest.fixture(scope="module")
def whole(commands, tmp_path_factory):
    """The data of a run that was never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert commands.run("hydra", *ASKED, "--out", path) == 0
    return path, _data(path)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(commands, whole, tmp_path, kills):
    path, expected = tmp_path / "run", whole[1]
    assert len(expected) > 100
    moments, killed, seen = random.Random(kills), 0, []
    while killed < kills:
        done = len(list(path.glob("chunks/*/*.done")))
        # Some moments lie before the first new chunk, others in a later one, or in the writing-up at the end.
        more, wait, started = moments.randrange(4), moments.uniform(0, 0.25), []

        def due(least=done + more, wait=wait, started=started):
            if (path / "plan.json").exists() and len(list(path.glob("chunks/*/*.done"))) >= min(least, 14):
                started.append(time.monotonic())
            return (path / "summary.json").exists() or (bool(started) and time.monotonic() - started[0] > wait)

        status = commands.run("hydra", *ASKED, "--out", path, "--resume", kill_when=due)
        if (path / "summary.json").exists():  # too late: it had finished, so begin once more
            assert _data(path) == expected
            shutil.rmtree(path)
            continue
        assert status == -9
        killed += 1
        seen.append(len(list(path.glob("chunks/*/*.done"))))
    assert commands.run("hydra", *ASKED, "--out", path, "--resume") == 0
    assert _data(path) == expected
    assert len(set(seen)) > kills // 2, f"the moments were not spread over the work: {seen}"
    assert not (path / "chunks").exists()


def _begin(path, options, monkeypatch, *, chunks=2, prompts=None):
    """Begin a run and stop it after some chunks."""
    real, left = study.write, [chunks]

    def stopping(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*arguments)

    prompts = Prompts.from_file(prompts_path()).take(12) if prompts is None else prompts
    with monkeypatch.context() as patch:
        patch.setattr(study, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            hydra([Arm("", PLAIN)], prompts, options=options, out=path)
    return prompts


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """An unfinished run of 4 chunks, 2 of which are done."""
    options = Options(ablation="zero", chunk=3)
    return tmp_path / "run", options, _begin(tmp_path / "run", options, monkeypatch)


def test_an_unfinished_run_is_visible_and_refused_with_the_hint(begun):
    path, options, prompts = begun
    assert not any((path / name).exists() for name in ("summary.json", "report.html", "tables"))
    assert sorted(one.name for one in path.glob("chunks/0/*")) == ["0-0.done", "1-0.done"]
    with pytest.raises(RunExistsError, match="holds an unfinished run; go on with --resume, or begin anew with --over"):
        hydra([Arm("", PLAIN)], prompts, options=options, out=path)


def test_only_what_is_missing_is_computed(begun, monkeypatch):
    path, options, prompts = begun
    computed = []
    real = study.compute
    monkeypatch.setattr(
        study, "compute", lambda job, chunk, **more: computed.append(chunk.name) or real(job, chunk, **more)
    )
    with pytest.warns(UserWarning, match="12 prompts"):
        run = hydra([Arm("", PLAIN)], prompts, options=options, out=path, resume=True)
    assert computed == ["2-0", "3-0"]
    assert run.results[0].summary["prompts"] == 12
    # A finished run is only written up anew.
    with pytest.warns(UserWarning, match="12 prompts"):
        again = hydra([Arm("", PLAIN)], prompts, options=options, out=path, resume=True)
    assert again.results[0].summary == run.results[0].summary
    assert len(computed) == 2


def test_any_machine_can_make_any_chunk_from_the_folder_alone(begun):
    """What a worker elsewhere does: read the plan, load the model, make a chunk; the bytes are those that stand."""
    import xarray as xr

    path, options, _ = begun
    plan = read_plan(path)
    assert plan.options == options
    (sweep,) = plan.sweeps
    job = study.reopen(path, sweep, plan.options, Models(plan.options).take(sweep.model, ""))
    first, *_ = sweep.plan
    arrays = study.compute(job, first)
    with xr.open_zarr(path / sweep.folder / "effects.zarr", consolidated=True) as held:
        for name, array in arrays.items():
            assert held[name][slice(*first.prompts)].values.tobytes() == array.tobytes()


def test_a_run_can_be_begun_anew(begun):
    path, _, prompts = begun
    with pytest.warns(UserWarning, match="12 prompts"):
        run = hydra([Arm("", PLAIN)], prompts, options=Options(ablation="mean"), out=path, overwrite=True)
    assert run.results[0].summary["ablation"] == "mean"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": Options(ablation="zero", chunk=4)}, "chunk was 3 and is 4"),
        (
            {"options": Options(ablation="mean", chunk=3, seed=2)},
            'ablation was "zero" and is "mean"; seed was 0 and is 2',
        ),
        (
            {"prompts": Prompts.from_texts(["a"])},
            "prompts: source was .*; prompts: count was 12 and is 1; prompts: dig",
        ),
        (
            {"arms": [Arm("", str(model_path("dropped")))]},
            "dropped is another model than .*: its config or weights",
        ),
        ({"arms": [Arm("a", PLAIN), Arm("b", PLAIN)]}, "models one became a, b"),
    ],
)
def test_another_question_is_refused_and_says_what_differs(begun, change, words):
    path, options, prompts = begun
    given = {"arms": [Arm("", PLAIN)], "prompts": prompts, "options": options, **change}
    before = {one: one.read_bytes() for one in path.rglob("*") if one.is_file()}
    with pytest.raises(InputError, match=words):
        hydra(given["arms"], given["prompts"], options=given["options"], out=path, resume=True)
    assert {one: one.read_bytes() for one in path.rglob("*") if one.is_file()} == before


def test_another_version_is_refused(begun):
    path, options, prompts = begun
    plan = json.loads((path / "plan.json").read_text(encoding="utf-8"))
    plan["versions"]["torch"] = "1.0"
    (path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(InputError, match=r'version of torch was "1.0" and is'):
        hydra([Arm("", PLAIN)], prompts, options=options, out=path, resume=True)


def test_another_model_of_the_same_name_is_refused(begun, tmp_path):
    from safetensors.torch import load_file, save_file

    path, options, prompts = begun
    other = tmp_path / "plain"
    shutil.copytree(PLAIN, other)
    weights = load_file(other / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].view(-1)[-1] += 0.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="another model"):
        hydra([Arm("", str(other))], prompts, options=options, out=path, resume=True)


def test_a_full_disk_says_how_to_go_on_and_loses_nothing(commands, whole, tmp_path):
    """Files may not grow beyond a limit: a real error of the operating system while a chunk is written."""
    path = tmp_path / "run"
    asked = ("--model", PLAIN, "--prompts", prompts_path(), "--limit", 32, "--donors", 3, "--chunk", 20, "--quiet")
    small = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    # Metadata and prompts fit, the changes of direct effects of 20 prompts do not, those of 12 do.
    small += "resource.setrlimit(resource.RLIMIT_FSIZE, (28000, 28000))"
    assert commands.run("hydra", *asked, "--out", path, before=small) == 2
    told = commands.errors.read_text().splitlines()[-1]
    assert (
        "cannot be written: File too large; finished chunks are kept; free some space and go on with --resume" in told
    )
    assert commands.run("hydra", *asked, "--out", path, "--resume") == 0
    held, expected = (load(one / "effects.zarr") for one in (path, whole[0]))
    for name in ("te", "delta_de", "clean_logit"):
        np.testing.assert_allclose(held[name], expected[name], rtol=0, atol=1e-4)
