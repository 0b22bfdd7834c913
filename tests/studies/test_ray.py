"""The study on Ray: the same bytes as in one process, whoever is killed."""

import contextlib
import os
import random
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from causalnet.demo import model_path, prompts_path
from causalnet.errors import InputError, NonFiniteError, UnfinishedError, WorkerLostError
from causalnet.prompts import Prompts
from causalnet.studies import worker as working
from causalnet.studies.folder import is_finished
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.plan import read_plan
from causalnet.studies.worker import Worker

pytest.importorskip("ray", reason="Ray is not installed")
PLAIN = str(model_path("plain"))
OPTIONS = Options(ablation="resample,zero", limit=32, donors=3, chunk=5)
CHUNKS = 14


def bytes_of(path):
    """Every byte of every data set of a run."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for store in sorted(path.rglob("effects.zarr"))
        for one in sorted(store.rglob("*"))
        if one.is_file()
    }


def prompts():
    return Prompts.from_file(prompts_path())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The data of the plain run."""
    path = tmp_path_factory.mktemp("plain") / "run"
    hydra([Arm("", PLAIN)], prompts(), options=OPTIONS, out=path)
    found = bytes_of(path)
    assert len(found) > 100
    return found


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine for several tests, so that it is started once."""
    from causalnet.interop.ray import Ray

    ray = pytest.importorskip("ray")
    with Ray(workers=1).crew(str):
        pass  # sets the environment that Ray is started with
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield Ray
    ray.shutdown()


def actors():
    """Process numbers of the workers."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if one.read_bytes().startswith(b"ray::_Actor"):
                found.append(int(one.parent.name))
    return found


class Killer(threading.Thread):
    """Kills one worker after the other, at moments drawn by a seed."""

    def __init__(self, path, kills, seed):
        super().__init__(daemon=True)
        self.path, self.kills, self.moments, self.killed = path, kills, random.Random(seed), []

    def run(self):
        while len(self.killed) < self.kills and not is_finished(self.path):
            least = len(self.killed) + 1
            if len(list(self.path.glob("chunks/*/*.done"))) >= least and (found := actors()):
                time.sleep(self.moments.uniform(0, 0.3))
                victim = self.moments.choice(found)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    self.killed.append(victim)
                while victim in actors():
                    time.sleep(0.02)
            time.sleep(0.02)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_any_number_of_workers_writes_the_bytes_of_the_plain_run(cluster, expected, tmp_path, workers):
    seen = []
    run = hydra(
        [Arm("", PLAIN)], prompts(), options=OPTIONS, out=tmp_path / "run", executor=cluster(workers=workers),
        progress=lambda what, done, total: seen.append((what, done, total)),
    )  # fmt: skip
    assert bytes_of(tmp_path / "run") == expected
    assert run.results[0].summary["prompts"] == 32 and (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "chunks").exists()
    by_worker = {what: done for what, done, _ in seen if what.startswith("worker")}
    assert sum(by_worker.values()) == CHUNKS and len(by_worker) <= workers


@pytest.mark.parametrize("seed", [0, *(pytest.param(one, marks=pytest.mark.slow) for one in range(1, 10))])
def test_workers_killed_at_random_moments_change_no_byte(cluster, expected, tmp_path, seed):
    killer = Killer(tmp_path / "run", 2, seed)
    killer.start()
    hydra([Arm("", PLAIN)], prompts(), options=OPTIONS, out=tmp_path / "run", executor=cluster(workers=2))
    killer.join(10)
    assert killer.killed, "no worker was killed, so nothing was tried"
    assert bytes_of(tmp_path / "run") == expected


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_driver_goes_on_with_resume(commands, expected, tmp_path, kills):
    path, moments = tmp_path / "run", random.Random(kills)
    asked = ("hydra", "--model", PLAIN, "--prompts", prompts_path(), "--limit", 32, "--donors", 3, "--chunk", 5)
    asked += ("--ablation", "resample", "--ablation", "zero", "--quiet", "--out", path, "--ray", "--workers", 1)
    killed = 0
    while killed < kills:
        least = len(list(path.glob("chunks/*/*.done"))) + moments.randrange(1, 4)

        def due(least=least):
            return len(list(path.glob("chunks/*/*.done"))) >= min(least, CHUNKS - 1) or is_finished(path)

        status = commands.run(*asked, "--resume", kill_when=due)
        if is_finished(path):
            break
        assert status == -9
        killed += 1
    assert killed, "the driver was never killed"
    assert commands.run(*asked, "--resume") == 0
    assert bytes_of(path) == expected


def test_what_a_worker_raises_arrives_and_the_others_go_on(cluster):
    class Odd:
        def half(self, number):
            if number == 3:
                raise NonFiniteError("3 is odd")
            return number // 2

    with cluster(workers=2).crew(Odd) as crew:
        found = {done.item: done for done in crew.map("half", [2, 3, 4, 6])}
        with pytest.raises(NonFiniteError, match="3 is odd"):
            crew.call("half", 3)
    assert [found[number].result for number in (2, 4, 6)] == [1, 2, 3]
    assert isinstance(found[3].error, NonFiniteError) and found[3].worker.startswith("worker ")
    assert not actors() or time.sleep(2) or not actors()


def test_a_worker_that_dies_each_time_is_one_failed_item(cluster):
    class Fragile:
        def do(self, number):
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

    with cluster(workers=1, retries=1).crew(Fragile) as crew:
        found = {done.item: done for done in crew.map("do", [0, 1, 2])}
    assert (found[0].result, found[2].result) == (0, 2)
    assert isinstance(found[1].error, WorkerLostError) and "lost each time" in str(found[1].error)


def test_a_broken_worker_does_not_eat_the_queue(cluster, tmp_path):
    claimed = str(tmp_path / "claimed")

    class Odd:
        def __init__(self):
            try:
                os.close(os.open(claimed, os.O_CREAT | os.O_EXCL))
                self.broken = True  # the first process; what replaces it is as broken as a device would be
                with open(claimed + ".pids", "a") as file:
                    file.write("x")
            except FileExistsError:
                self.broken = False

        def do(self, number):
            if self.broken:
                raise RuntimeError("device-side assert")
            time.sleep(0.05)
            return number

    with cluster(workers=2).crew(Odd) as crew:
        found = list(crew.map("do", list(range(12))))
    assert sorted(done.item for done in found) == list(range(12))
    assert all(done.error is None and done.result == done.item for done in found)


def test_what_a_worker_warns_of_is_heard(cluster):
    from causalnet.effects.statistics import FewPromptsWarning

    class Odd:
        def do(self):
            import warnings

            warnings.warn("12 prompts", FewPromptsWarning, stacklevel=2)

    with cluster(workers=1).crew(Odd) as crew, pytest.warns(FewPromptsWarning, match="12 prompts"):
        crew.call("do")


def test_more_workers_than_there_is_room_for_are_refused(cluster):
    with pytest.raises(InputError, match=r"1 workers of 8 GPUs do not fit into a cluster of 3 processors and 0 GPUs"):
        cluster(workers=1, gpus_per_worker=8).crew(str).__enter__()
    with pytest.raises(InputError, match="workers is 0"):
        cluster(workers=0)


def test_an_address_where_nothing_answers_is_refused_soon():
    from causalnet.interop import ray

    with pytest.raises(InputError, match=r"127\.0\.0\.1:9: no Ray cluster can be used: .*refused.*ray start --head"):
        ray._connect(pytest.importorskip("ray"), "127.0.0.1:9")


def test_items_go_to_others_than_those_that_failed_them():
    from collections import deque

    from causalnet.interop.ray import _Shift

    shift = _Shift(deque(enumerate("ab")))
    task = shift.next_for(0, [0, 1])
    assert task == (0, "a") and shift.again(0, task, RuntimeError())
    assert shift.next_for(0, [0, 1]) == (1, "b")
    assert shift.next_for(0, [0, 1]) is None and shift.next_for(1, [0, 1]) == (0, "a")
    assert not shift.again(1, task, RuntimeError())  # twice is enough
    assert not shift.again(1, (1, "b"), NonFiniteError())  # the same for every worker
    shift.waiting.extend((number, "c") for number in range(2, 6))
    for number in (2, 3):
        assert shift.again(0, (number, "c"), RuntimeError())
    assert shift.next_for(0, [0, 1]) is None  # three strikes
    assert shift.next_for(0, [0]) is not None  # but nobody else is there


# What holds wherever a worker works, tried in this process.


def _begun(path, options=OPTIONS):
    made = Worker(str(path), (Arm("", PLAIN),), options)
    made.begin(prompts(), False)
    return made


def test_a_worker_of_another_version_is_refused_with_both_named(tmp_path, monkeypatch):
    made = _begun(tmp_path / "run")
    first, *_ = read_plan(tmp_path / "run").sweeps[0].plan
    own = working.versions()
    monkeypatch.setattr(working, "versions", lambda: {**own, "torch": "0.1"})
    with pytest.raises(InputError, match=re.escape(f"with torch {own['torch']}, and a worker has 0.1")):
        made.chunk((0, first))


def test_a_worker_with_another_model_is_refused(tmp_path):
    _begun(tmp_path / "run")
    first, *_ = read_plan(tmp_path / "run").sweeps[0].plan
    other = Worker(str(tmp_path / "run"), (Arm("", str(model_path("dropped"))),), OPTIONS)
    with pytest.raises(InputError, match=r"dropped is another model than .*plain.*digest [0-9a-f]{12} and not"):
        other.chunk((0, first))


def test_a_poisoned_chunk_is_named_after_the_others_are_done(tmp_path, monkeypatch):
    path, options, real = tmp_path / "run", replace(OPTIONS, ablation="zero"), working.compute

    def poisoned(job, chunk, **more):
        if chunk.name == "1-0":
            raise NonFiniteError("prompt 2, draw 0: logit is nan")
        return real(job, chunk, **more)

    monkeypatch.setattr(working, "compute", poisoned)
    with pytest.raises(UnfinishedError) as caught:
        hydra([Arm("", PLAIN)], prompts(), options=options, out=path)
    said = str(caught.value)
    assert "1 of 7 chunks could not be done: plain: sweep, chunk 1-0 (prompts 5 to 9): NonFiniteError: prompt 2" in said
    assert "--resume" in said and isinstance(caught.value.__cause__, NonFiniteError)
    assert len(list(path.glob("chunks/0/*.done"))) == 6
    monkeypatch.setattr(working, "compute", real)
    assert hydra([Arm("", PLAIN)], prompts(), options=options, out=path, resume=True).results[0].summary
