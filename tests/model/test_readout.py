"""The readout: final norm, directions, scales and caps against the model's own logits."""

import pytest
import torch
from torch import nn

from causalnet.errors import UnsupportedModelError
from causalnet.model.compile import compile_model
from causalnet.model.observe import observe, random_ids
from causalnet.model.readout import read_norm

WIDTH = 24


class PlusOne(nn.Module):
    """An RMSNorm that stores its gain less one, as Gemma's does."""

    def __init__(self, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0)).double())
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)


class Nameless(nn.Module):
    """A LayerNorm without parameters or a named eps, as OLMo's is."""

    def forward(self, x):
        return nn.functional.layer_norm(x, (WIDTH,), eps=1e-5)


def layer_norm():
    norm = nn.LayerNorm(WIDTH, eps=1e-3).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(WIDTH, generator=generator))
        norm.bias.copy_(torch.randn(WIDTH, generator=generator))
    return norm


@pytest.mark.parametrize(
    ("norm", "centred", "eps"),
    [
        (PlusOne(), False, 1e-6),
        (nn.RMSNorm(WIDTH, eps=1e-5).double(), False, 1e-5),
        (layer_norm(), True, 1e-3),
        (Nameless(), True, 1e-5),
    ],
    ids=["gain less one", "RMSNorm", "LayerNorm", "nameless"],
)
def test_norms_are_read_by_probing(norm, centred, eps):
    read = read_norm(norm, WIDTH, dtype=torch.float64, device=torch.device("cpu"))
    assert read.centred is centred
    assert read.eps == pytest.approx(eps)
    z = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for size in (1.0, 1e-2, 1e2):
        exact = read.centre(size * z) / read.sigma(size * z)[:, None] * read.gain + read.bias
        assert torch.allclose(exact, norm(size * z), atol=1e-6)
    frozen = read(z, 2 * read.sigma(z))
    assert torch.allclose(frozen - read.bias, (norm(z) - read.bias) / 2)


@pytest.mark.parametrize("norm", [nn.Tanh(), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))])
def test_what_is_no_norm_is_refused(norm):
    with pytest.raises(UnsupportedModelError, match="neither an RMSNorm nor a LayerNorm"):
        read_norm(norm.double(), WIDTH, dtype=torch.float64, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "gemma2", "granite", "cohere", "olmo", "nanochat", "minicpm3"])
def test_direct_effects_and_constants_are_the_logits(small, kind):
    mechanisms = compile_model(small(kind, "float64"))
    readout = mechanisms.readout
    seen = observe(mechanisms, random_ids(mechanisms, prompts=3, tokens=9, seed=5))
    z = seen.streams[-1]
    precap = readout.precap_logits(z)
    assert torch.allclose(readout.cap(precap), seen.logits.double(), atol=1e-6)
    plus, minus = torch.tensor([3, 7, 11]), torch.tensor([5, 2, 40])
    rows = torch.arange(3)
    parts = [seen.streams[0], *seen.contributions.values()]
    for other in (None, minus):
        directions = readout.directions(plus, other)
        total = sum(directions.direct(part[:, -1], readout.norm.sigma(z[:, -1])) for part in parts)
        last = precap[:, -1]
        reference = last.mean(-1) if other is None else last[rows, other]
        assert torch.allclose(total + directions.constant, last[rows, plus] - reference, atol=1e-6)


def test_caps_and_scales_are_those_of_the_config(small):
    assert compile_model(small("gemma2")).readout.softcap == 30.0
    assert compile_model(small("nanochat")).readout.softcap == 15.0
    assert compile_model(small("granite")).readout.scale == pytest.approx(1 / 8)
    assert compile_model(small("cohere")).readout.scale == pytest.approx(small("cohere").config.logit_scale)
    assert compile_model(small("gptj")).readout.bias is not None
    assert compile_model(small("llama")).readout.softcap is None


def test_a_frozen_scale_leaves_logits_linear(small):
    readout = compile_model(small("llama", "float64")).readout
    z = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = readout.norm.sigma(z[:1])
    a, b = (readout.precap_logits(row[None], sigma) for row in z)
    both = readout.precap_logits((z[0] + z[1])[None], sigma)
    assert torch.allclose(a + b, both, atol=1e-6)
