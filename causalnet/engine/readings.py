"""From final residual streams to outcomes: the readout of every world, by the model's own modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from causalnet.errors import ExpressionError, UnknownNameError, explain
from causalnet.expr.outcomes import VECTORS, Along, Outcome, Target, Token
from causalnet.model.readout import Directions, Readout

__all__ = ["Lookup", "Tokens", "World0", "read"]

_PIECE = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Bytes of logits that are made at a time, by device: fixed, so that no result depends on what memory there is.

A reading makes up to five more tensors of that size on its way.
"""


@dataclass(frozen=True, eq=False)
class Lookup:
    """What outcomes name: a token's number by its text, and vectors [d_model] by name."""

    tokens: Callable[[str], int] | None = None
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __call__(self, text: str) -> int:
        """Return the number of the token that a text is."""
        if self.tokens is None:
            raise ExpressionError(explain(f"{text!r} names a token, but no tokenizer was given"))
        return self.tokens(text)


@dataclass(frozen=True, eq=False)
class Tokens:
    """What outcomes read: the target of each prompt [prompt], and how strings become ids and names vectors."""

    target: torch.Tensor
    lookup: Callable[[str], int] | None = None

    def ids(self, token: Token) -> torch.Tensor:
        """Return token ids [prompt]."""
        if isinstance(token, Target):
            return self.target
        if isinstance(token, str):
            if self.lookup is None:
                raise ExpressionError(explain(f"{token!r} names a token, but no tokenizer was given"))
            return torch.full_like(self.target, self.lookup(token))
        if isinstance(token, Along):
            raise ExpressionError(f"{token} reads along a vector, not a token")
        return torch.full_like(self.target, token)

    def along(self, readout: Readout, one: Along) -> Directions:
        """Return the read-out directions of a projection, the same row for each prompt.

        The vector is taken at unit length; ``raw`` reads the output of the final norm, ``weight`` the residual stream
        before it at a given scale, so it holds the norm's gain and, for a LayerNorm, its centring.
        """
        vectors = self.lookup.vectors if isinstance(self.lookup, Lookup) else {}
        if one.name not in vectors:
            raise UnknownNameError(explain(f"{one}: no vector of that name", legal=vectors, got=one.name))
        head = readout.weight
        wide = torch.promote_types(head.dtype, torch.float32)
        raw = vectors[one.name].to(head.device, wide)
        raw = (raw / torch.linalg.vector_norm(raw)).expand(len(self.target), -1)
        weight = raw * readout.norm.gain.to(wide)
        if readout.norm.centred:
            weight = weight - weight.mean(-1, keepdim=True)
        return Directions(weight, raw @ readout.norm.bias.to(wide), raw, raw.new_zeros(len(self.target)))


@dataclass(eq=False)
class World0:
    """What readings of other worlds need of the natural one, at one column: its final stream [prompt, d_model]."""

    stream: torch.Tensor
    tokens: Tokens
    cache: dict[tuple, Directions] = field(default_factory=dict)

    def part(self, prompts: slice) -> "World0":
        """Return the same for some of the prompts, as views."""
        tokens = Tokens(self.tokens.target[prompts], self.tokens.lookup)
        return World0(self.stream[prompts], tokens, {key: found.part(prompts) for key, found in self.cache.items()})

    def directions(self, readout: Readout, outcome: Outcome) -> Directions:
        """Return the read-out directions of an outcome's tokens, or of its vector."""
        key = outcome.tokens
        if key not in self.cache:
            if isinstance(key[0], Along):
                self.cache[key] = self.tokens.along(readout, key[0])
                return self.cache[key]
            ids = [self.tokens.ids(token).to(self.stream.device) for token in outcome.tokens]
            self.cache[key] = readout.directions(*ids)
        return self.cache[key]


def read(
    readout: Readout,
    outcome: Outcome,
    stream: torch.Tensor,
    natural: World0,
    sigma: torch.Tensor | None = None,
    memo: dict[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Read one outcome off final streams.

    Parameters
    ----------
    readout
        The model's readout.
    outcome
        Any outcome but ``direct``, which is read off contributions.
    stream
        Final residual stream [prompt, draw, d_model].
    natural
        The natural world at the same column.
    sigma
        Scale [prompt, draw] of the final norm where it is set; None: the stream's own.
    memo
        Intermediate results of the same stream and scale, shared between outcomes.

    Returns
    -------
    torch.Tensor
        [prompt, draw], float32 at least.
    """
    memo = {} if memo is None else memo
    if outcome.name == "sigma":
        return readout.norm.sigma(stream) if sigma is None else sigma
    if "normed" not in memo:
        memo["normed"] = readout.norm(stream, sigma)
    linear = ("precap_logit",) if readout.softcap is not None else ("precap_logit", "logit", "logit_diff")
    if outcome.name in (*linear, *VECTORS):
        # Folded: only the tokens that are read are unembedded.
        return natural.directions(readout, outcome).logit(memo["normed"])
    return _read_all(readout, outcome, natural, memo)


def _read_all(readout: Readout, outcome: Outcome, natural: World0, memo: dict[str, torch.Tensor]) -> torch.Tensor:
    """Read an outcome that needs every logit, some rows at a time; what one piece holds is kept for other outcomes."""
    normed, curved = memo["normed"], _CURVED[outcome.name]
    (prompts, draws), wide = normed.shape[:2], torch.promote_types(normed.dtype, torch.float32)
    step = max(1, _PIECE.get(normed.device.type, _PIECE["cpu"]) // (readout.weight.shape[0] * wide.itemsize))
    if prompts * draws <= step:
        if "logits" not in memo:
            memo["logits"] = _logits(readout, normed)
        return curved(memo["logits"], outcome, natural, readout)
    parts = []
    for some in _slices(prompts, max(1, step // draws)):
        own = natural.part(some)
        row = [curved(_logits(readout, normed[some, part]), outcome, own, readout) for part in _slices(draws, step)]
        parts.append(torch.cat(row, 1))
    return torch.cat(parts)


def _slices(count: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]


def _logits(readout: Readout, normed: torch.Tensor) -> torch.Tensor:
    """Return the model's logits [prompt, draw, vocab] of the final norm's output, in float32 at least."""
    logits = readout.cap(readout.head(normed) * readout.scale)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _picked(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    index = ids.to(logits.device)[:, None, None].expand(-1, logits.shape[1], 1)
    return logits.gather(-1, index)[..., 0]


def _logit(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    return _picked(logits, natural.tokens.ids(outcome.tokens[0])) - logits.mean(-1)


def _logit_diff(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    plus, minus = (natural.tokens.ids(token) for token in outcome.tokens)
    return _picked(logits, plus) - _picked(logits, minus)


def _logprob(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    return _picked(logits, natural.tokens.ids(outcome.tokens[0])) - logits.logsumexp(-1)


def _prob(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    return _logprob(logits, outcome, natural, readout).exp()


def _rank(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    own = _picked(logits, natural.tokens.ids(outcome.tokens[0]))
    # A comparison with NaN is false, so a broken world would rank its token first.
    return (logits > own.unsqueeze(-1)).sum(-1).to(logits.dtype).masked_fill(logits.isnan().any(-1), torch.nan)


def _top1(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    rank = _rank(logits, outcome, natural, readout)
    return torch.where(rank.isnan(), rank, (rank == 0).to(logits.dtype))


def _entropy(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _kl(logits: torch.Tensor, outcome: Outcome, natural: World0, readout: Readout) -> torch.Tensor:
    log_p = readout.cap(readout.precap_logits(natural.stream)).to(logits.dtype).log_softmax(-1).unsqueeze(1)
    return (log_p.exp() * (log_p - logits.log_softmax(-1))).sum(-1)


_CURVED: Mapping[str, Callable[[torch.Tensor, Outcome, World0, Readout], torch.Tensor]] = {
    "logit": _logit,
    "logit_diff": _logit_diff,
    "logprob": _logprob,
    "prob": _prob,
    "rank": _rank,
    "top1": _top1,
    "entropy": _entropy,
    "kl": _kl,
}
