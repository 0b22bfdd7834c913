"""A run behind a URL: an S3-compatible store served by this machine, with faults."""

import logging
import threading
import time
from dataclasses import replace

import pytest

from causalnet.cli.main import main
from causalnet.demo import model_path, prompts_path
from causalnet.errors import InputError, RunExistsError
from causalnet.prompts import Prompts
from causalnet.studies import folder, places, store
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.places import fetch, is_remote, place

for name in ("moto.server", "s3fs", "upath"):
    pytest.importorskip(name, reason=f"{name} is not installed")

# The clients of the protocol use what their own libraries call old.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ARMS = [Arm("", str(model_path("plain")))]
OPTIONS = Options(ablation="resample,zero", limit=32, donors=3, chunk=8, strata=("length",))


def prompts():
    return Prompts.from_file(prompts_path())


class Server:
    """An S3-compatible server that can go away and come back with what it held."""

    def __init__(self):
        self.port = 0
        self.start()

    def start(self):
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer("127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    def stop(self):
        self.server.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The URL of an empty bucket; fsspec is told of the server as its users do, by configuration."""
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    settings = {"endpoint_url": server.url, "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2}}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    name = f"bucket-{abs(hash(tmp_path)) % 10**8}"
    fs.mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same run in a folder."""
    path = tmp_path_factory.mktemp("plain") / "run"
    hydra(ARMS, prompts(), options=OPTIONS, out=path)
    return path


def data_of(path):
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and one.name not in ("report.html", "summary.json")  # they say how long it took
    }


def test_a_whole_run_is_the_run_of_a_folder(bucket, plain, tmp_path, capsys):
    run = hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/runs/one")
    assert is_remote(run.path) and str(run.path) == f"{bucket}/runs/one"
    assert run.results[0].summary["pooled"]["all"]["lost"] > 0
    fetch(run.path, tmp_path / "got")
    got = data_of(tmp_path / "got")
    assert got == data_of(plain) and any(name.startswith("variants/strata") for name in got)
    assert (tmp_path / "got" / "report.html").stat().st_size > 10**5
    with pytest.raises(RunExistsError, match="holds a run"):
        hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/runs/one")
    # The report is written again from there, and a finished run is only written up anew.
    with pytest.raises(SystemExit) as stop:
        main(["report", f"{bucket}/runs/one", "--title", "Again"])
    assert stop.value.code == 0 and capsys.readouterr().out.strip() == f"{bucket}/runs/one/report.html"
    assert "Again" in (place(f"{bucket}/runs/one") / "report.html").read_text(encoding="utf-8")
    again = hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/runs/one", resume=True)
    assert again.results[0].summary == run.results[0].summary


def test_a_server_that_goes_away_for_seconds_loses_nothing(bucket, plain, server, tmp_path, monkeypatch):
    away, waited = [], []
    monkeypatch.setattr(places.time, "sleep", lambda seconds: waited.append(seconds) or time_sleep(seconds))

    def progress(what, done, total):
        if not away and what == "plain: sweep" and done >= 2000:
            away.append(server)
            server.stop()
            threading.Timer(2.0, server.start).start()

    hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/run", progress=progress)
    assert away and waited, "the server never went away, or nobody noticed"
    fetch(place(f"{bucket}/run"), tmp_path / "got")
    assert data_of(tmp_path / "got") == data_of(plain)


time_sleep = time.sleep


def test_a_server_that_stays_away_is_reported_and_the_run_goes_on_later(bucket, plain, server, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_WAITS", (0.1,))

    def progress(what, done, total):
        if what == "plain: sweep" and done >= 2000:
            server.stop()

    with pytest.raises(OSError, match=rf"{bucket}/run.*cannot be written.*go on with --resume"):
        hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/run", progress=progress)
    server.start()
    path = place(f"{bucket}/run")
    path.fs.invalidate_cache()
    assert len(store.Markers(path / "chunks" / "0").done()) >= 1
    assert not (path / "summary.json").exists()
    hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/run", resume=True)
    fetch(path, tmp_path / "got")
    assert data_of(tmp_path / "got") == data_of(plain)


def test_workers_write_straight_to_the_store(bucket, plain, server, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from causalnet.interop.ray import Ray

    # How a cluster is told: by the environment of its workers.
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", server.url)
    # A run that stands there is replaced, which this process, having looked, must see.
    other = replace(OPTIONS, ablation="zero", strata=(), limit=30)
    hydra(ARMS, prompts(), options=other, out=f"{bucket}/run")
    hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/run", overwrite=True, executor=Ray(workers=2))
    assert not ray.is_initialized()
    fetch(place(f"{bucket}/run"), tmp_path / "got")
    assert data_of(tmp_path / "got") == data_of(plain)


def test_a_copy_that_was_killed_on_its_way_is_begun_anew(bucket, monkeypatch):
    real = folder.put

    def killed(*arguments, **more):
        real(*arguments, **{**more, "last": ("nothing",)})
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "put", killed)
        patch.setattr(folder, "remove", lambda path: None)  # a process that is killed removes nothing
        with pytest.raises(SystemExit):
            hydra(ARMS, prompts(), options=OPTIONS, out=f"{bucket}/run")
    assert (place(f"{bucket}/run") / "copying").exists()
    run = hydra(ARMS, prompts(), options=replace(OPTIONS, ablation="zero", strata=()), out=f"{bucket}/run")
    assert run.results[0].summary and not (run.path / "copying").exists()


def test_a_place_that_does_not_answer_is_refused_before_any_work(monkeypatch):
    import fsspec

    settings = {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"}
    settings["config_kwargs"] = {"retries": {"max_attempts": 1}, "connect_timeout": 1}
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    with pytest.raises(InputError, match=r"s3://b/run: cannot be reached: \w+Error: .*fsspec's configuration"):
        hydra(ARMS, prompts(), options=OPTIONS, out="s3://b/run")


def test_file_urls_are_folders_and_memory_is_a_place(tmp_path):
    assert place(f"file://{tmp_path}/run") == tmp_path / "run"
    run = hydra(ARMS, prompts(), options=replace(OPTIONS, ablation="zero", strata=()), out="memory://one/run")
    assert (place("memory://one/run") / "report.html").exists() and run.results[0].summary


def test_a_url_that_nothing_speaks_is_refused():
    with pytest.raises(InputError, match=r"nowhere://a: cannot be reached: .*pip install"):
        place("nowhere://a")


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(bucket):
    with pytest.raises(InputError, match=r"s3://not-there-at-all/run: cannot be (written|reached)"):
        hydra(ARMS, prompts(), options=OPTIONS, out="s3://not-there-at-all/run")
