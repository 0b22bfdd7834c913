"""The tables against the data, written out plainly; and the same from a store that is left on disk."""

import csv
import itertools
import tracemalloc

import numpy as np
import pytest
import zarr
from scipy.stats import spearmanr

from causalnet.demo import model_path, prompts_path
from causalnet.draw import report
from causalnet.effects import load, summarise
from causalnet.effects.consistency import agreement, chance_jaccard, consistency
from causalnet.effects.convergence import convergence
from causalnet.effects.coupling import coupling, participation
from causalnet.effects.fits import fits
from causalnet.errors import InputError, UnknownNodeError
from causalnet.prompts import Prompts
from causalnet.studies.chunks import ChunkPlan
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.store import create, open_store, opened, write
from causalnet.studies.tables import read_table, write_tables

FAST = {"bootstrap": 99, "permutations": 99}


@pytest.fixture(scope="module")
def arm(demo_run):
    """One arm's result and its tables as rows of texts by name."""
    result = demo_run.results[1]
    tables = {}
    for path in (result.folder / "tables").glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            tables[path.stem] = list(csv.DictReader(file))
    return result, load(result.folder / "effects.zarr"), tables


def test_every_table_is_there(arm):
    _, _, tables = arm
    assert set(tables) == {"nodes", "regions", "fits", "coupling", "participation", "consistency", "convergence"}
    assert all(rows for rows in tables.values())


def test_nodes_and_fits_agree_with_the_summary(arm):
    result, data, tables = arm
    whole = {(row["node"], row["part"], row["regressor"]): row for row in tables["fits"]}
    assert len(whole) == 16 * 4 * 2
    for node, row in zip(result.summary["nodes"], tables["nodes"], strict=True):
        assert row["name"] == node["name"]
        assert float(row["te"]) == pytest.approx(node["te"], rel=1e-6)
        assert float(row["slope_low"]) == pytest.approx(node["slope_ci"][0], rel=1e-6, abs=1e-9)
        for part, key in (("ce", "slope"), ("ce_attn", "slope_ce_attn"), ("self_repair", "slope_repair")):
            found = whole[node["name"], part, "clean"]
            assert float(found["slope"]) == pytest.approx(node[key], rel=1e-6, abs=1e-9)
        lost = whole[node["name"], "ce", "lost"]
        assert float(lost["slope"]) == pytest.approx(node["slope_lost"], rel=1e-6, abs=1e-9)
        assert float(lost["slope_low"]) <= float(lost["slope"]) <= float(lost["slope_high"])
        i = data["node"].values.tolist().index(node["name"])
        x, y = data["clean_direct"].values[:, i].astype(float), data["ce"].values[:, i].mean(-1, dtype=float)
        if y.any():
            assert float(whole[node["name"], "ce", "clean"]["intercept"]) == pytest.approx(
                np.polyfit(x, y, 1)[1], rel=1e-4, abs=1e-6
            )


def test_regions_count_prompts(arm):
    _, data, tables = arm
    drop, clean = -data["te"].values.mean(-1), data["clean_direct"].values
    rows = {row["node"]: row for row in tables["regions"]}
    for i, name in enumerate(data["node"].values.tolist()):
        assert float(rows[name]["repair"]) == pytest.approx((drop[:, i] < clean[:, i]).mean())
        assert float(rows[name]["breakage"]) == pytest.approx((drop[:, i] > clean[:, i]).mean())
    assert float(rows["all"]["repair"]) == pytest.approx((drop < clean).mean())


def test_coupling_is_the_mean_change(arm):
    _, data, tables = arm
    delta = data["delta_de"].mean(("prompt", "donor"), dtype=float)
    found = {(row["node"], row["responder"]): float(row["delta_de"]) for row in tables["coupling"]}
    for (node, responder), value in found.items():
        assert value == pytest.approx(float(delta.sel(node=node, responder=responder)), abs=1e-6)
    answered = {
        (n, r) for n in data["node"].values for r in data["responder"].values if delta.sel(node=n, responder=r) != 0
    }
    assert answered == set(found)
    for row in tables["coupling"]:
        assert float(row["delta_de_low"]) <= float(row["delta_de"]) <= float(row["delta_de_high"])
        shares = sum(float(row[kind]) for kind in ("repairing", "erasing_less", "breaking", "silent"))
        assert shares == pytest.approx(1.0)
        prompts = data["delta_de"].sel(node=row["node"], responder=row["responder"]).values.mean(-1, dtype=float)
        assert float(row["breaking"]) == pytest.approx((prompts < -1e-9).mean(), abs=1e-6)
    for row in tables["participation"]:
        one = np.abs(delta.sel(node=row["node"]).values)
        expected = one.sum() ** 2 / (one**2).sum() if one.any() else 0.0
        assert float(row["of_mean"]) == pytest.approx(expected, rel=1e-4)


def test_consistency_is_the_mean_over_pairs(arm):
    _, data, tables = arm
    rows = {(row["node"], row["across"]): row for row in tables["consistency"]}
    assert {across for _, across in rows} == {"prompts", "donors"}  # these prompts are of one relation
    delta = data["delta_de"].sel(node="attn[4]").values.astype(float)
    active = delta.mean((0, 1)) != 0
    means = delta.mean(1)[:, active]
    overlap, alike = _pairs(means)
    assert float(rows["attn[4]", "prompts"]["jaccard"]) == pytest.approx(np.mean(overlap), abs=1e-6)
    assert float(rows["attn[4]", "prompts"]["rank"]) == pytest.approx(np.mean(alike), abs=1e-6)
    per_prompt = [[np.mean(one) for one in _pairs(prompt[:, active])] for prompt in delta]
    jaccard, rank = np.mean(per_prompt, axis=0)
    assert float(rows["attn[4]", "donors"]["jaccard"]) == pytest.approx(jaccard, abs=1e-6)
    assert float(rows["attn[4]", "donors"]["rank"]) == pytest.approx(rank, abs=1e-6)
    assert rows["attn[4]", "donors"]["units"] == "36"
    # Groups' mean responses are units too, and prompts without a group are left out.
    halves = ["a"] * 10 + [None] * 6 + ["b"] * 20
    (group,) = [
        one for one in consistency(data, {"half": halves}) if (one["node"], one["across"]) == ("attn[4]", "half")
    ]
    two = np.stack([means[:10].mean(0), means[16:].mean(0)])
    overlap, alike = _pairs(two)
    assert (group["units"], group["jaccard"]) == (2, pytest.approx(overlap[0]))
    assert group["rank"] == pytest.approx(alike[0])


def _pairs(table):
    top = [set(np.argsort(-np.abs(row))[:3].tolist()) for row in table]
    both = list(itertools.combinations(range(len(table)), 2))
    overlap = [len(top[i] & top[j]) / len(top[i] | top[j]) for i, j in both]
    return overlap, [spearmanr(table[i], table[j]).statistic for i, j in both]


def test_agreement_knows_chance_and_its_error():
    rng = np.random.default_rng(0)
    random = agreement(rng.normal(size=(400, 12)))
    assert random.jaccard == pytest.approx(chance_jaccard(12), abs=0.01)
    assert random.rank == pytest.approx(0, abs=0.01)
    # The standard error is that of repeated samples of units.
    drawn = [agreement(np.r_[0:12] + 6 * rng.normal(size=(40, 12))) for _ in range(200)]
    for name in ("jaccard", "rank"):
        spread = np.std([getattr(one, name) for one in drawn])
        assert np.mean([getattr(one, f"{name}_se") for one in drawn]) == pytest.approx(spread, rel=0.3)
    with pytest.raises(InputError, match="nothing can be compared"):
        agreement(np.zeros((1, 3)))


def test_convergence_ends_at_the_mean(arm):
    result, data, tables = arm
    last = {(row["node"], row["part"]): row for row in tables["convergence"] if row["donors"] == "4"}
    for node in result.summary["nodes"]:
        for part in ("te", "de", "ce", "norm"):
            assert float(last[node["name"], part]["estimate"]) == pytest.approx(node[part], abs=1e-6)
    first = [row for row in tables["convergence"] if row["donors"] == "1"]
    i = data["node"].values.tolist().index(first[0]["node"])
    assert float(first[0]["estimate"]) == pytest.approx(
        data[first[0]["part"]].values[:, i, 0].mean(dtype=float), abs=1e-6
    )


def test_a_store_on_disk_gives_the_same_numbers(arm, tmp_path):
    result, data, _ = arm
    lazy = open_store(result.folder / "effects.zarr", 1)
    assert summarise(lazy, **FAST) == summarise(data, **FAST)
    assert fits(lazy, **FAST) == fits(data, **FAST)
    assert coupling(lazy, bootstrap=99) == coupling(data, bootstrap=99)
    assert participation(lazy, bootstrap=99) == participation(data, bootstrap=99)
    assert consistency(lazy) == consistency(data)
    assert convergence(lazy) == convergence(data)


def _store(path, prompts):
    """A store of many numbers: 50 kB for each prompt."""
    nodes = [f"{kind}[{layer}]" for layer in range(16) for kind in ("attn", "mlp")]
    labels = {
        "target_id": np.zeros(prompts, dtype=np.int64), "target": ["a"] * prompts,
        "text": [f"prompt {one}" for one in range(prompts)], "nodes": nodes, "responders": nodes,
        "donor_index": (np.arange(prompts)[:, None] + 1 + np.arange(12)) % prompts, "model": "m",
        "ablation": "resample", "expression": "TE(attn[0]@last = resample)", "position": "last",
        "run": {"versions": {}, "seed": 0, "dtype": "float32", "device": "cpu", "arguments": {}},
    }  # fmt: skip
    plan = ChunkPlan(prompts, 32, 50, 32)
    create(path, labels, plan)
    rng = np.random.default_rng(0)
    for chunk in plan:
        count = chunk.prompts[1] - chunk.prompts[0]
        delta = np.repeat(rng.normal(size=(count, 32, 1, 32)).astype(np.float32), 12, axis=2)
        de = rng.normal(-1, 1, size=(count, 32, 12))
        arrays = {"delta_de": delta, "de": de, "ce": delta.sum(-1), "norm": 0 * de, "te": de + delta.sum(-1)}
        arrays |= {"residual": 0 * de, "clean_direct": -de.mean(-1), "clean_responder": delta[:, 0, 0]}
        write(path, chunk, {**arrays, "clean_logit": np.ones(count)})
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Folders of two runs, the second with much more data, and how many prompts each has."""
    made = {}
    for prompts in (1000, 3000):
        folder = tmp_path_factory.mktemp(f"large-{prompts}")
        _store(folder / "effects.zarr", prompts)
        (folder / "summary.json").write_text('{"model": "m"}')
        made[prompts] = folder
    return made


def _peaks(large, read):
    """Return the peak of what each run's reading holds; how many bytes there are more in the second than in the first.

    One thread: how many chunks happened to be decoded at once would move the peaks by 20 MB.
    """
    peaks, sizes = [], []
    with zarr.config.set({"async.concurrency": 1}):
        for prompts, folder in large.items():
            tracemalloc.start()
            read(folder, prompts)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            sizes.append(opened(folder / "effects.zarr")["delta_de"].nbytes)
    assert sizes[1] - sizes[0] > 90e6
    return peaks, sizes[1] - sizes[0]


def test_a_summary_holds_a_part_of_the_data_however_much_there_is(large, tmp_path):
    def read(folder, prompts):
        data = open_store(folder / "effects.zarr", 2**20)
        summary = summarise(data, **FAST)
        write_tables(tmp_path / f"tables {prompts}", data, summary, Prompts.from_texts(["a"] * prompts), {})

    peaks, more = _peaks(large, read)
    # What grows is means over the twelve donors and what is made of them, some at a time.
    assert peaks[1] - peaks[0] < 0.5 * more, [peak / 1e6 for peak in peaks]


def test_a_report_holds_a_part_of_the_data_however_much_there_is(large, tmp_path):
    report(large[1000], tmp_path / "first.html", memory=2**20)  # what is imported on the way counts for neither
    peaks, more = _peaks(large, lambda folder, _: report(folder, tmp_path / "report.html", memory=2**20))
    # What grows is one number for each prompt and node.
    assert peaks[1] - peaks[0] < 0.15 * more, [peak / 1e6 for peak in peaks]


def test_joint_ablation_and_responsibility(tmp_path):
    options = Options(donors=3, limit=30, joint=2, responsible=("attn[3]", "mlp[5]"))
    arm = Arm("", str(model_path("dropped")))
    prompts = Prompts.from_file(prompts_path())
    run = hydra([arm], prompts, options=options, out=tmp_path / "run")
    data = load(run.path / "effects.zarr")
    heads, first, second = read_table(run.path / "tables" / "joint.csv")
    one, two = (dict(zip(heads, row, strict=True)) for row in (first, second))
    totals = data["te"].mean(("prompt", "donor"), dtype=float)
    strongest = str(data["node"].values[int(np.argmin(totals.values))])
    assert one["added"] == strongest
    assert float(one["te"]) == pytest.approx(float(totals.min()), abs=1e-4)
    assert float(one["direct"]) == pytest.approx(float(data["de"].sel(node=strongest).mean()), abs=1e-4)
    assert float(two["te"]) < float(one["te"])
    assert float(two["single_sum"]) == pytest.approx(float(totals.min() + totals.sel(node=two["added"])), abs=1e-4)
    heads, *rows = read_table(run.path / "tables" / "responsibility.csv")
    assert [row[0] for row in rows] == ["attn[3]@last", "mlp[5]@last"]
    assert all(0 <= float(row[heads.index("responsibility")]) <= 1 for row in rows)
    with pytest.raises(UnknownNodeError, match="did you mean 'attn"):
        hydra([arm], prompts, options=Options(limit=30, responsible=("atn[3]",)), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
