"""A maker of small sweeps with known numbers."""

import numpy as np
import pytest

from causalnet.effects import sweep_dataset

RUN = {"versions": {"numpy": np.__version__}, "seed": 0, "dtype": "float32", "device": "cpu", "arguments": {}}


def build_sweep(
    prompts=40,
    layers=2,
    donors=3,
    *,
    seed=0,
    ablation="resample",
    restored=0.0,
    noise=0.0,
    missing=(),
    clean=None,
    **more,
):
    """Every node loses its clean effect (times a donor's factor); the last MLP gives back ``restored`` of it.

    ``missing`` names prompts that lack their last donor.
    """
    rng = np.random.default_rng(seed)
    nodes = [f"{kind}[{layer}]" for layer in range(layers) for kind in ("attn", "mlp")]
    drawn = ablation == "resample"
    donors = donors if drawn else 1
    clean = rng.normal(1.0, 1.0, size=(prompts, len(nodes))) if clean is None else clean
    factor = rng.uniform(0.5, 1.5, size=(prompts, len(nodes), donors)) if drawn else 1.0
    de = -clean[:, :, None] * factor
    delta = np.zeros((*de.shape, len(nodes)))
    delta[:, :-1, :, -1] = restored * clean[:, :-1, None] + noise * rng.normal(size=(prompts, len(nodes) - 1, donors))
    norm = 0.1 * rng.normal(size=de.shape)
    te = de + delta.sum(-1) + norm
    index = np.full((prompts, donors), -1)
    if drawn:
        index = (
            np.arange(prompts)[:, None] + 1 + np.array([rng.permutation(prompts - 1)[:donors] for _ in range(prompts)])
        )
        index %= prompts
    for prompt in missing:
        index[prompt, -1] = -1
        for array in (te, de, delta, norm):
            array[prompt, :, -1] = np.nan
    arrays = {
        **{"te": te, "de": de, "norm": norm, "delta_de": delta, "clean_direct": clean},
        **{"clean_responder": rng.normal(size=clean.shape), "clean_logit": rng.normal(8, 1, size=prompts)},
        **{"target_id": np.arange(prompts), "target": [f" {one}" for one in range(prompts)]},
        **{"text": [f"prompt {one} is" for one in range(prompts)], "nodes": nodes, "responders": nodes},
        **{"donor_index": index, "model": "toy", "ablation": ablation, "run": RUN},
        "expression": f"TE(attn[0]@last = {ablation})",
    }
    return sweep_dataset(**{**arrays, **more})


@pytest.fixture
def make_sweep():
    return build_sweep
