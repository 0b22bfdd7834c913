"""The readout: from the final residual stream to logits, and its exact linear form.

With ``z`` the final residual stream, the model computes ``logits = s · W_U norm(z)`` (a soft-cap, if
any, comes last).  ``norm(z) = centre(z) / σ(z) · gain + bias``; for a fixed σ the logits are linear in
``z``, which is what direct effects are (McGrath et al. 2023).  Gain, bias and centring are read off the
module by probing it, so no family has to say whether it stores the gain or the gain minus one.
"""

from dataclasses import dataclass

import torch
from torch import nn

from causalnet.errors import UnsupportedModelError

__all__ = ["Directions", "FinalNorm", "Readout", "read_norm"]

_EPS = ("eps", "variance_epsilon", "epsilon", "norm_eps", "layer_norm_epsilon", "_eps")


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """The final norm: the module and its exact form ``centre(z) / sigma · gain + bias``."""

    module: nn.Module
    gain: torch.Tensor
    bias: torch.Tensor
    eps: float
    centred: bool

    def centre(self, z: torch.Tensor) -> torch.Tensor:
        """Return ``z`` less its mean for a LayerNorm, ``z`` itself for an RMSNorm."""
        return z - z.mean(-1, keepdim=True) if self.centred else z

    def sigma(self, z: torch.Tensor) -> torch.Tensor:
        """Return the scale σ(z) [...] of residual vectors z [..., d_model], in float32 at least."""
        wide = self.centre(z.to(torch.promote_types(z.dtype, torch.float32)))
        return (wide.square().mean(-1) + self.eps).sqrt()

    def __call__(self, z: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the model's own norm; with ``sigma`` [...] given, the scale is that one instead."""
        out = self.module(z)
        if sigma is None:
            return out
        bias = self.bias.to(out.dtype)
        return (out - bias) * (self.sigma(z) / sigma).to(out.dtype).unsqueeze(-1) + bias


@dataclass(frozen=True, eq=False)
class Directions:
    """Read-out directions of chosen tokens (or token contrasts), one per row.

    ``weight`` [row, d_model] already holds the norm's gain and the logit scale, is centred over the
    vocabulary and, for a LayerNorm, over d_model; ``constant`` [row] is what the biases add.
    ``raw`` [row, d_model] and ``offset`` [row] read the same tokens off the *output* of the final norm.
    """

    weight: torch.Tensor
    constant: torch.Tensor
    raw: torch.Tensor
    offset: torch.Tensor

    def logit(self, normed: torch.Tensor) -> torch.Tensor:
        """Return the centred logit (or contrast) [row, ...] of the final norm's output [row, ..., d_model]."""
        wide = normed.to(self.raw.dtype)
        out = torch.einsum("r...d,rd->r...", wide, self.raw)
        return out + self.offset.view(-1, *(1,) * (out.dim() - 1))

    def part(self, rows: slice) -> "Directions":
        """Return the directions of some of the rows, as views."""
        return Directions(self.weight[rows], self.constant[rows], self.raw[rows], self.offset[rows])

    def direct(self, contribution: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the direct effect of contributions [row, ..., d_model] at scale sigma [row, ...]."""
        wide = contribution.to(self.weight.dtype)
        return torch.einsum("r...d,rd->r...", wide, self.weight) / sigma.to(self.weight.dtype)


@dataclass(frozen=True, eq=False)
class Readout:
    """Final norm, unembedding, logit scale and soft-cap of a model."""

    norm: FinalNorm
    head: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The unembedding [vocab, d_model]."""
        return self.head.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The head's bias [vocab], if it has one."""
        return getattr(self.head, "bias", None)

    def precap_logits(self, z: torch.Tensor, sigma: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits [..., vocab] before any soft-cap, from the final residual stream."""
        return self.head(self.norm(z, sigma)) * self.scale

    def cap(self, logits: torch.Tensor) -> torch.Tensor:
        """Apply the soft-cap, where the model has one."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def directions(self, plus: torch.Tensor, minus: torch.Tensor | None = None) -> Directions:
        """Return the read-out directions of tokens ``plus`` [row], less those of ``minus`` or the vocabulary mean.

        A logit centred over the vocabulary is the contrast of a token with the mean of all.
        """
        unembedding = self.weight
        wide = torch.promote_types(unembedding.dtype, torch.float32)
        raw = unembedding[plus].to(wide)
        bias = torch.zeros(unembedding.shape[0], dtype=wide, device=unembedding.device)
        if self.bias is not None:
            bias = self.bias.to(wide)
        if minus is None:
            raw = raw - _mean_row(unembedding, wide)
            offset = (bias[plus] - bias.mean()) * self.scale
        else:
            raw = raw - unembedding[minus].to(wide)
            offset = (bias[plus] - bias[minus]) * self.scale
        raw = raw * self.scale
        constant = offset + raw @ self.norm.bias.to(wide)
        weight = raw * self.norm.gain.to(wide)
        if self.norm.centred:
            weight = weight - weight.mean(-1, keepdim=True)
        return Directions(weight, constant, raw, offset)


def _mean_row(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the mean over the vocabulary, accumulated in ``dtype`` without a copy of the matrix."""
    return matrix.sum(0, dtype=dtype) / matrix.shape[0]


def read_norm(module: nn.Module, width: int, *, dtype: torch.dtype, device: torch.device) -> FinalNorm:
    """Read gain, bias, eps and centring off a final norm by probing it.

    Raises
    ------
    UnsupportedModelError
        If the module is neither an RMSNorm nor a LayerNorm, whatever its class is called.
    """
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(2, width, generator=generator, dtype=torch.float64).to(device, dtype)
    with torch.no_grad():
        bias = module(torch.zeros(1, width, dtype=dtype, device=device))[0]
        first, second = module(samples)
    eps = _eps_of(module, samples, bias)
    wide = torch.promote_types(dtype, torch.float32)
    best: tuple[float, FinalNorm] | None = None
    for centred in (False, True):
        trial = FinalNorm(module, torch.ones(width), bias, eps, centred)
        unit = trial.centre(samples.to(wide)) / trial.sigma(samples).to(wide).unsqueeze(-1)
        gain = (first - bias).to(wide) / unit[0]
        misfit = float(((second - bias).to(wide) - unit[1] * gain).abs().max() / gain.abs().max().clamp_min(1e-30))
        exact = _stored_gain(module, gain, dtype)
        if best is None or misfit < best[0]:
            best = (misfit, FinalNorm(module, exact, bias, eps, centred))
    assert best is not None
    tolerance = 0.1 if dtype in (torch.bfloat16, torch.float16) else 1e-3
    if best[0] > tolerance:
        raise UnsupportedModelError(
            f"the final norm ({type(module).__name__}) is neither an RMSNorm nor a LayerNorm: probing it leaves a "
            f"relative misfit of {best[0]:.1e}; direct effects need a readout that is linear for a fixed scale"
        )
    return best[1]


def _eps_of(module: nn.Module, samples: torch.Tensor, bias: torch.Tensor) -> float:
    """Return the eps that the module names; where it names none, measure it on vectors as small as sqrt(eps)."""
    named = next((float(getattr(module, name)) for name in _EPS if getattr(module, name, None) is not None), None)
    if named is not None:
        return named
    wide = torch.promote_types(samples.dtype, torch.float32)
    with torch.no_grad():
        large, small = ((module(samples * size) - bias).to(wide) for size in (1.0, 1e-3))
    # |out(z)|² is |z|²/(|z|² + eps) times a constant; the mean is taken off first, or was zero to begin with.
    powers = (samples - samples.mean(-1, keepdim=True)).to(wide).square().mean()
    ratio = float(large.square().mean() / small.square().mean().clamp_min(1e-30))
    eps = max(ratio - 1.0, 0.0) * float(powers) * 1e-6
    return float(f"{eps:.1g}") if eps > 1e-9 else 0.0


def _stored_gain(module: nn.Module, probed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Prefer the module's own parameter to the probed gain, which carries the probe's rounding."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.shape != probed.shape:
        # A norm without a learned gain has gain one up to rounding.
        ones = torch.ones_like(probed)
        return ones if torch.allclose(probed, ones, atol=1e-3 if dtype != torch.bfloat16 else 5e-2) else probed
    weight = weight.detach().to(probed.dtype)
    candidates = (weight, weight + 1.0)
    return min(candidates, key=lambda gain: float((gain - probed).abs().max()))
