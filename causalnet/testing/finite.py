"""Networks whose values are whole numbers modulo a prime: identities hold in them without any tolerance."""

import numpy as np

from causalnet.graph import Block, CausalGraph, Node
from causalnet.testing.networks import Mechanism, Network, Values

__all__ = ["PRIME", "field_network", "product"]

PRIME = 2**31 - 1
"""The prime that values are reduced by; products of two residues fit into 64 bits."""


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the matrix product modulo :data:`PRIME`, each product reduced before the sum.

    Examples
    --------
    >>> product(np.array([[PRIME - 1]]), np.array([[PRIME - 1]])).tolist()
    [[1]]
    """
    return (a[..., :, None] * b[None, :, :] % PRIME).sum(-2) % PRIME


def field_network(
    layers: int = 2,
    *,
    width: int = 3,
    vocab: int = 4,
    length: int = 3,
    prompts: int = 3,
    draws: int = 2,
    heads: int | None = None,
    parallel: bool = False,
    seed: int = 0,
) -> Network:
    """Return a transformer-like network over the integers modulo 2³¹ − 1.

    Attention is causal and bilinear (scores are products of queries and keys, no softmax), MLPs are
    quadratic, and the norm multiplies by an invertible number that depends on the whole stream.

    Parameters
    ----------
    layers, width, vocab, length
        Size; every prompt has ``length`` positions.
    prompts, draws
        Units; each prompt's donors are other prompts.
    heads
        Heads per layer as nodes, with a bias; None: attention layers are nodes.
    parallel
        Whether MLPs do not read the attention of their own layer.
    seed
        Of weights and prompts.

    Notes
    -----
    The outcome called ``prob`` is the cube of the target's logit plus the square of the mean logit: a stand-in
    for curved outcomes, under which identities have to hold as well.

    Examples
    --------
    >>> from causalnet.effects.asking import answer
    >>> from causalnet.expr import PDE, TE, TIE, attn, last, resample
    >>> s = attn[0] @ last << resample
    >>> te, pde, tie = answer(field_network(), [TE(s), PDE(s), TIE(s)])
    >>> bool(((te - pde - tie) % PRIME == 0).all()), bool((pde != 0).all())
    (True, True)
    """
    rng = np.random.default_rng(seed)
    blocks = [Block(layer, heads=heads, parallel=parallel) for layer in range(layers)]
    graph = CausalGraph.from_blocks(blocks, granularity="layer" if heads is None else "head", name="finite field")
    table = _random(rng, 7, width)
    unembedding = _random(rng, width, vocab)
    mechanisms: dict[Node, Mechanism] = {
        Node("embed"): lambda read, ids: table[ids],
        Node("norm"): lambda read, ids: _scale(_stream(read)),
        Node("logits"): lambda read, ids: _logits(read, unembedding),
    }
    for node in graph.nodes:
        if node.kind in ("attn", "head"):
            mechanisms[node] = _attention(*(_random(rng, width, width) for _ in range(4)))
        elif node.kind == "mlp":
            mechanisms[node] = _mlp(_random(rng, width, width), _random(rng, width, width), _random(rng, 1, width))
        elif node.kind == "bias":
            mechanisms[node] = _constant(_random(rng, 1, width))
    texts = [rng.integers(0, len(table), length) for _ in range(prompts)]
    donors = np.array([[(prompt + 1 + draw) % prompts for draw in range(draws)] for prompt in range(prompts)])
    return Network(
        graph,
        mechanisms,
        texts,
        donors=donors,
        targets=tuple(int(token) for token in rng.integers(0, vocab, prompts)),
        pairs={"corrupt": [rng.integers(0, len(table), length) for _ in range(prompts)]},
        vectors={"direction": _random(rng, 1, width)[0]},
        modulus=PRIME,
        curves={"prob": _curved},
    )


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(1, PRIME, shape, dtype=np.int64)


def _stream(read: Values) -> np.ndarray:
    return sum((value for node, value in read.items() if node.kind != "norm"), np.zeros(1, dtype=np.int64)) % PRIME


def _attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> Mechanism:
    def attend(read: Values, ids: np.ndarray) -> np.ndarray:
        stream = _stream(read)
        scores = np.tril(product(product(stream, query), product(stream, key).T))
        return product(product(scores, product(stream, value)), out)

    return attend


def _mlp(into: np.ndarray, out: np.ndarray, bias: np.ndarray) -> Mechanism:
    def apply(read: Values, ids: np.ndarray) -> np.ndarray:
        hidden = (product(_stream(read), into) + bias) % PRIME
        return product(hidden * hidden % PRIME, out)

    return apply


def _constant(bias: np.ndarray) -> Mechanism:
    return lambda read, ids: np.broadcast_to(bias, (len(ids), bias.shape[1]))


def _scale(stream: np.ndarray) -> np.ndarray:
    """Return an invertible number [position, 1] that depends on the stream."""
    found = (1 + (stream * stream % PRIME).sum(-1, keepdims=True)) % PRIME
    return np.where(found == 0, 1, found)


def _logits(read: Values, unembedding: np.ndarray) -> np.ndarray:
    inverse = np.array([[pow(int(scale), -1, PRIME)] for scale in read[Node("norm")][:, 0]], dtype=np.int64)
    return product(_stream(read) * inverse % PRIME, unembedding)


def _curved(logits: np.ndarray, natural: np.ndarray, tokens: object) -> float:
    own, mean = int(logits[tokens[0]]), int(logits.sum()) * pow(len(logits), -1, PRIME)  # type: ignore[index]
    return float((own**3 + mean**2) % PRIME)
