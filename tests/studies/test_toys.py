"""Networks with known answers, as checkpoints through the command: its numbers are those answers."""

import csv
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from causalnet.cli.main import main
from causalnet.effects import load
from causalnet.graph import Node
from causalnet.testing.crafted import basis, blank_gpt2, put
from causalnet.testing.linear import linear_model

WORDS = 40


def _save(model, path):
    """Write a model with a tokenizer of words w0, w1, … as a checkpoint."""
    model.save_pretrained(path)
    vocabulary = {f"w{one}": one for one in range(model.config.vocab_size)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(path)
    return path


def _toy(f, seed=0):
    """Every token has an amount u between 1 and 3; attn[0] writes x = u, mlp[0] writes f(x, u), both into the logit.

    ``f`` is a list of rectified parts: (weight of x, weight of u, what a unit of it writes).
    """
    word, own, answer = basis(16, 3, seed)
    vocab = WORDS + 1
    model = blank_gpt2(2, width=16, vocab=vocab, inner=max(2, len(f)), activation="relu")
    amounts = np.concatenate([[0.0], np.random.default_rng(seed).uniform(1, 3, size=WORDS)])
    put(model.transformer.wte.weight, amounts[:, None] * word)
    head = np.zeros((vocab, 16))
    # The logit of token 0 less the mean over the vocabulary is what is written along own and answer, and u.
    head[0] = (word + own + answer) * vocab / (vocab - 1)
    put(model.lm_head.weight, head)
    first = model.transformer.h[0]
    put(first.attn.c_proj.weight, np.outer(word, own))
    inner = np.zeros((16, max(2, len(f))))
    out = np.zeros((max(2, len(f)), 16))
    for place, (of_x, of_u, writes) in enumerate(f):
        inner[:, place] = of_x * own + of_u * word
        out[place] = writes * answer
    put(first.mlp.c_fc.weight, inner)
    put(first.mlp.c_proj.weight, out)
    return model, amounts[1:]


TOYS = {
    # f, TE and CE as multiples of u under zero ablation of attn[0], f's clean effect, kind of the response
    "load_bearing": ([], -1.0, 0.0, 0.0, None),
    "erasure": ([(1, 0, -1.0)], 0.0, 1.0, -1.0, "erasing less"),
    "partial_erasure": ([(1, 0, -0.7)], -0.3, 0.7, -0.7, "erasing less"),
    "self_repair": ([(-1, 1, 1.0)], 0.0, 1.0, 0.0, "repairing"),
    "breakage": ([(1, 0, 0.5)], -1.5, -0.5, 0.5, "breaking"),
    "backup_of_half": ([(-1, 1, 0.5)], -0.5, 0.5, 0.0, "repairing"),
}


def _run(model, prompts, tmp_path, *more):
    _save(model, tmp_path / "toy")
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts), encoding="utf-8")
    chosen = (
        "--model",
        tmp_path / "toy",
        "--prompts",
        file,
        "--dtype",
        "float64",
        "--out",
        tmp_path / "run",
        "--quiet",
    )
    with pytest.raises(SystemExit) as stop:
        main(["hydra", *map(str, (*chosen, *more))])
    assert stop.value.code == 0
    return tmp_path / "run"


def _rows(run, table, **chosen):
    path = run / "tables" / f"{table}.csv"
    if not path.exists():  # where there is no row
        return []
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [row for row in found if all(row[key] == value for key, value in chosen.items())]


@pytest.mark.parametrize("name", list(TOYS))
def test_the_motifs_have_their_known_slopes(name, tmp_path, capsys):
    f, te, ce, clean, kind = TOYS[name]
    model, amounts = _toy(f)
    run = _run(model, [f"w{one + 1}" for one in range(WORDS)], tmp_path, "--ablation", "zero")
    data, summary = load(run / "effects.zarr"), json.loads((run / "summary.json").read_text(encoding="utf-8"))
    close = {"rtol": 0, "atol": 1e-6}  # data are stored in float32
    np.testing.assert_allclose(data["te"].sel(node="attn[0]")[:, 0], te * amounts, **close)
    np.testing.assert_allclose(data["de"].sel(node="attn[0]")[:, 0], -amounts, **close)
    np.testing.assert_allclose(data["ce"].sel(node="attn[0]")[:, 0], ce * amounts, **close)
    np.testing.assert_allclose(data["clean_responder"].sel(responder="mlp[0]"), clean * amounts, **close)
    node = summary["nodes"][0]
    assert node["name"] == "attn[0]"
    assert node["slope"] == pytest.approx(ce, abs=1e-5)
    assert node["slope_ce_mlp"] == pytest.approx(ce, abs=1e-5)
    assert node["pooled"] == pytest.approx(ce, abs=1e-5)
    for regressor in ("clean", "lost"):
        (row,) = _rows(run, "fits", node="attn[0]", part="ce", regressor=regressor)
        assert float(row["slope"]) == pytest.approx(ce, abs=1e-5)
        assert float(row["r2"]) == pytest.approx(float(ce != 0), abs=1e-5)
        assert (row["n"], float(row["p_null"]) < 0.05) == ("40", ce != 0)
    coupled = _rows(run, "coupling", node="attn[0]")
    assert [row["responder"] for row in coupled] == ([] if kind is None else ["mlp[0]"])
    if kind is not None:
        assert (coupled[0]["kind"], float(coupled[0][kind.replace(" ", "_")])) == (kind, 1.0)
        (ratio,) = _rows(run, "participation", node="attn[0]")
        assert float(ratio["of_mean"]) == pytest.approx(1.0)
    # The same numbers are what was printed.
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("attn[0]")).split()
    assert float(printed[1]) == pytest.approx(-amounts.mean(), abs=5e-4)
    assert float(printed[2]) == pytest.approx(te * amounts.mean(), abs=5e-4)


def test_total_effects_that_are_not_there_split_into_parts_that_are(tmp_path, capsys):
    """Erasure and repair have one TE and one DE; what tells them apart is the responder's clean effect."""
    kinds = []
    for name in ("erasure", "self_repair"):
        (tmp_path / name).mkdir()
        model, _ = _toy(TOYS[name][0])
        run = _run(model, [f"w{one + 1}" for one in range(WORDS)], tmp_path / name, "--ablation", "zero")
        node = json.loads((run / "summary.json").read_text(encoding="utf-8"))["nodes"][0]
        assert node["te"] == pytest.approx(0, abs=1e-6)
        assert node["de"] < -1
        kinds.append(_rows(run, "coupling", node="attn[0]")[0]["kind"])
    assert kinds == ["erasing less", "repairing"]


def test_a_linear_network_has_its_closed_form(tmp_path, capsys):
    """Resample and zero ablation of every node of three linear layers, against the block matrix."""
    made = linear_model(layers=3, width=8, vocab=12, seed=3)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 12, size=4).tolist() for _ in range(32)]
    texts = [" ".join(f"w{one}" for one in ids) for ids in prompts]
    run = _run(made.transformer(), texts, tmp_path, "--donors", 3, "--ablation", "resample", "--ablation", "zero")
    for place in ("", "variants/ablation/zero"):
        data = load(run / place / "effects.zarr")
        donors, targets = data["donor_index"].values, data["target_id"].values
        known = {key: np.full(data["te"].shape, np.nan) for key in ("TE", "DE", "CE", "NORM")}
        for i, ids in enumerate(prompts):
            for j, name in enumerate(data["node"].values.tolist()):
                node = Node.parse(name)
                for d in range(donors.shape[1]):
                    if place == "" and donors[i, d] < 0:
                        continue
                    value = np.zeros(8) if place else made.natural(prompts[donors[i, d]], node, 3)
                    found = made.closed_form(ids, {(node, 3): value}, target=int(targets[i]))
                    for key, table in known.items():
                        table[i, j, d] = found[key]
        assert np.nanmax(np.abs(known["CE"])) > 0.5
        for key, table in known.items():
            np.testing.assert_allclose(data[key.lower()], table, rtol=0, atol=2e-5, err_msg=f"{place} {key}")
        if place == "":
            clean = data["clean_direct"].values.astype(float)
            for j, name in enumerate(data["node"].values.tolist()[:-1]):
                (row,) = _rows(run, "fits", node=name, part="ce", regressor="clean")
                slope = np.polyfit(clean[:, j], np.nanmean(known["CE"][:, j], axis=-1), 1)[0]
                assert float(row["slope"]) == pytest.approx(slope, abs=2e-4), name
