"""Synthetic sweeps: random numbers in the written schema, with structure enough to look at."""

import numpy as np
import pytest

from causalnet.effects.schema import sweep_dataset

NASTY = '<script>alert(1)</script> "><img src=x onerror=alert(2)> $x^2$ \\N & 中文'


def sweep(layers=6, prompts=40, donors=4, seed=0, repair=0.6, parallel=False, model="synthetic", texts=None):
    """Return a sweep in which half-way layers are repaired by ``repair`` of what they lose."""
    rng = np.random.default_rng(seed)
    names = [f"{kind}[{layer}]" for layer in range(layers) for kind in ("attn", "mlp")]
    count = len(names)
    depth = np.arange(count) // 2 / max(layers - 1, 1)
    size = 0.1 + 1.6 * np.exp(-(((depth - 0.65) / 0.2) ** 2)) * np.where(np.arange(count) % 2, 0.8, 1.0)
    clean = rng.normal(size * 0.8, 0.35 * size, (prompts, count))
    size = size[:, None]
    other = rng.normal(0.05 * size, 0.2 * size, (prompts, count, donors)) * (donors > 1)
    de = other - clean[:, :, None]
    delta = np.zeros((prompts, count, de.shape[2], count))
    for place in range(count):
        first = place + (2 if parallel and place % 2 == 0 else 1)
        after = np.arange(first, count)
        if len(after) == 0:
            continue
        weight = rng.dirichlet(np.full(len(after), 0.4))
        share = repair * (1 - abs(depth[place] - 0.6)) * weight
        noise = rng.normal(0, 0.02, (prompts, de.shape[2], len(after)))
        delta[:, place, :, first:] = -de[:, place, :, None] * share + noise
        delta[:, place, :, first:] -= 0.5 * (1 - depth[place]) ** 3 * rng.random(len(after)) * clean[:, None, after]
    norm = 0.1 * -de + rng.normal(0, 0.02, de.shape)
    te = de + delta.sum(-1) + norm
    index = np.full((prompts, de.shape[2]), -1)
    if donors > 1:
        index = np.stack([(rng.permutation(prompts - 1)[:donors] + one + 1) % prompts for one in range(prompts)])
    return sweep_dataset(
        te=te, de=de, norm=norm, delta_de=delta, clean_direct=clean, clean_responder=clean,
        clean_logit=clean.sum(1), target_id=np.zeros(prompts, int), target=["out"] * prompts,
        text=texts or [f"prompt number {one}" for one in range(prompts)], nodes=names, responders=names,
        donor_index=index, model=model, ablation="resample" if donors > 1 else "zero",
        expression="TE(attn[0]@last = resample)",
        run={"versions": {"causalnet": "0"}, "seed": seed, "dtype": "float32", "device": "cpu",
             "arguments": {"donors": donors}},
    )  # fmt: skip


def summarise(data):
    """Return a summary as a run writes it, from least squares."""
    mean = {name: data[name].mean("donor").values.astype(float) for name in ("te", "de", "ce", "norm")}
    clean = data["clean_direct"].values.astype(float)
    delta = data["delta_de"].mean("donor").values.astype(float)
    attention = np.array([str(name).startswith("attn") for name in data["responder"].values])
    rows = []
    for place, name in enumerate(data["node"].values):
        x, y = clean[:, place], mean["ce"][:, place]
        slope, r2 = (np.polyfit(x, y, 1)[0], np.corrcoef(x, y)[0, 1] ** 2) if y.any() else (0.0, 0.0)
        rows.append({
            "name": str(name), **{key: float(values[:, place].mean()) for key, values in mean.items()},
            "ce_attn": float(delta[:, place][:, attention].sum(1).mean()),
            "ce_mlp": float(delta[:, place][:, ~attention].sum(1).mean()),
            "slope": float(slope), "slope_ci": [float(slope - 0.08), float(slope + 0.08)], "r2": float(r2),
            "p_null": 0.001, "slope_lost": float(slope * 0.9),
        })  # fmt: skip
    return {
        "model": data.attrs["model"], "prompts": data.sizes["prompt"], "donors": data.sizes["donor"],
        "closure_max_abs": 1.2e-6, "closure_max_rel": 3.4e-7, "wall_s": 12.3, "nodes": rows,
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_sweep():
    return sweep


@pytest.fixture(scope="session")
def make_summary():
    return summarise


@pytest.fixture(scope="session")
def nasty():
    return NASTY
