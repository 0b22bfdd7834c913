"""Linear transformers of any depth: as a network, as a real GPT-2, and solved in closed form.

Attention averages over earlier positions, MLPs are matrices, norms inside the layers do nothing.  The final
norm is frozen (σ = 1) or real, and is then the only thing that bends.  Every effect follows from one block
matrix: with B the direct influences and B₀ the same with the rows of X cut, ``values = (I − B)⁻¹ constants``
and a set X moves everything by ``(I − B₀)⁻¹ δ``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from causalnet.graph import Block, CausalGraph, Edge, Node
from causalnet.testing.crafted import blank_gpt2, put, sharp_norm
from causalnet.testing.networks import Mechanism, Network, Values

__all__ = ["LinearModel", "linear_model"]

Places = Mapping[tuple[Node, int], np.ndarray]
"""What is set: value [d_model] of a node at a position."""


@dataclass(frozen=True, eq=False)
class LinearModel:
    """Weights of a linear transformer whose stream has mean zero over d_model.

    Parameters
    ----------
    attn, mlp
        Map [d_model, d_model] of every layer, applied from the right.
    embed, unembed
        [vocab, d_model].
    eps
        Of the final LayerNorm; None: σ is 1 and constant.
    parallel
        Whether MLPs do not read the attention of their own layer (networks only).

    Examples
    --------
    >>> model = linear_model(layers=2, seed=0)
    >>> network = model.network([(1, 2, 3), (4, 5, 6)])
    >>> from causalnet.effects.asking import answer
    >>> from causalnet.expr import DE, attn, last, zero
    >>> de = answer(network, [DE(attn[0] @ last << zero)])[0]
    >>> exact = model.closed_form((1, 2, 3), {(Node("attn", 0), 2): np.zeros(8)}, target=0)["NDE"]
    >>> bool(abs(de[0, 0] - exact) < 1e-12)
    True
    """

    attn: np.ndarray
    mlp: np.ndarray
    embed: np.ndarray
    unembed: np.ndarray
    eps: float | None = None
    parallel: bool = False

    @property
    def graph(self) -> CausalGraph:
        """The causal graph."""
        blocks = [Block(layer, parallel=self.parallel) for layer in range(len(self.attn))]
        return CausalGraph.from_blocks(blocks, name="linear")

    def sigma(self, stream: np.ndarray) -> np.ndarray:
        """Return the final norm's scale [...] of streams [..., d_model]."""
        return np.ones(stream.shape[:-1]) if self.eps is None else np.sqrt((stream**2).mean(-1) + self.eps)

    def map(self, node: Node, length: int) -> np.ndarray:
        """Return what a node does to the flattened stream [length · d_model], applied from the left."""
        assert node.layer is not None
        if node.kind == "mlp":
            return np.kron(np.eye(length), self.mlp[node.layer].T)
        average = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
        return np.kron(average, self.attn[node.layer].T)

    # -- as a network, as a transformer ----------------------------------------------------------------

    def network(self, prompts: Sequence[Sequence[int]], donors: np.ndarray | None = None) -> Network:
        """Return the model as a network on token ids; every prompt's target is token 0."""

        def stream(read: Values) -> np.ndarray:
            return sum((read[node] for node in read if node.kind != "norm"), np.zeros(1))

        def linear(node: Node) -> Mechanism:
            return lambda read, ids: (self.map(node, len(ids)) @ stream(read).ravel()).reshape(len(ids), -1)

        mechanisms: dict[Node, Mechanism] = {
            Node("embed"): lambda read, ids: self.embed[ids],
            Node("norm"): lambda read, ids: self.sigma(stream(read))[:, None],
            Node("logits"): lambda read, ids: stream(read) / read[Node("norm")] @ self.unembed.T,
        }
        mechanisms |= {node: linear(node) for node in self.graph.nodes if node.kind in ("attn", "mlp")}
        rows = tuple(np.asarray(ids) for ids in prompts)
        return Network(self.graph, mechanisms, rows, donors=donors, targets=(0,) * len(rows))

    def transformer(self) -> Any:
        """Return the model as a ``transformers`` GPT-2 in float64, with weights alone: no module is replaced.

        See :func:`causalnet.testing.crafted.blank_gpt2` for how it is made linear.
        """
        assert not self.parallel, "GPT-2 is sequential"
        vocab, width = self.embed.shape
        model = blank_gpt2(len(self.attn), width=width, vocab=vocab)
        put(model.transformer.wte.weight, self.embed)
        put(model.lm_head.weight, self.unembed)
        for layer, block in enumerate(model.transformer.h):
            put(block.attn.c_proj.weight, self.attn[layer])
            put(block.mlp.c_fc.weight, np.eye(width))
            put(block.mlp.c_proj.weight, self.mlp[layer])
        if self.eps is not None:
            sharp_norm(model, self.eps)
        return model

    # -- in closed form --------------------------------------------------------------------------------

    def moved(
        self, ids: Sequence[int], s: Places, held: Places | None = None, edges: Collection[Edge] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Solve the block system: natural stream, its change where nothing responds, and where everything does.

        Parameters
        ----------
        ids
            The prompt.
        s
            What is set.
        held
            Further places, set in the natural world as well.
        edges
            Keep the changes that travel along these edges alone.

        Returns
        -------
        tuple of numpy.ndarray
            Final streams [d_model] at the last position: of the world without s, and the two changes.
        """
        graph, length, width = self.graph, len(ids), self.embed.shape[1]
        nodes = graph.contributors
        size = length * width
        at = {node: slice(index * size, (index + 1) * size) for index, node in enumerate(nodes)}
        influence = np.zeros((len(nodes) * size, len(nodes) * size))
        carries = influence.copy()
        for target in nodes:
            for source in graph.parents(target):
                influence[at[target], at[source]] = self.map(target, length)
                if edges is None or Edge(source, target) in edges:
                    carries[at[target], at[source]] = influence[at[target], at[source]]
        constants = np.zeros(len(influence))
        constants[at[Node("embed")]] = self.embed[list(ids)].ravel()

        def rows(node: Node, position: int) -> slice:
            start = at[node].start + position * width
            return slice(start, start + width)

        def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
            return np.linalg.solve(np.eye(len(matrix)) - matrix, right)

        for (node, position), value in (held or {}).items():
            influence[rows(node, position)] = carries[rows(node, position)] = 0.0
            constants[rows(node, position)] = value
        natural = solve(influence, constants)
        change = np.zeros_like(natural)
        for (node, position), value in s.items():
            influence[rows(node, position)] = carries[rows(node, position)] = 0.0
            # Against the world without s; for several nodes of X at once, each against its own natural value.
            change[rows(node, position)] = value - natural[rows(node, position)]
        everything = solve(carries, change)
        read = [node for node in nodes if edges is None or Edge(node, Node("logits")) in edges]

        def final(values: np.ndarray, which: Sequence[Node]) -> np.ndarray:
            return sum((values[at[node]].reshape(length, width)[-1] for node in which), np.zeros(width))

        return final(natural, nodes), final(change, read), final(everything, read)

    def natural(self, ids: Sequence[int], node: Node, position: int) -> np.ndarray:
        """Return a node's natural value [d_model] at a position, by running the layers in order."""
        stream = self.embed[list(ids)]
        found = {Node("embed"): stream}
        for layer in range(len(self.attn)):
            for one in (Node("attn", layer), Node("mlp", layer)):
                read = stream - found[Node("attn", layer)] if self.parallel and one.kind == "mlp" else stream
                found[one] = (self.map(one, len(ids)) @ read.ravel()).reshape(read.shape)
                stream = stream + found[one]
        return found[node][position]

    def path_specific(self, ids: Sequence[int], s: Places, edges: Collection[Edge], *, target: int = 0) -> float:
        """Return the effect of s along some edges, none of them into or out of the norm."""
        w = self.unembed[target] - self.unembed.mean(0)
        z, _, change = self.moved(ids, s, edges=edges)
        return float(change @ w / self.sigma(z))

    def closed_form(
        self, ids: Sequence[int], s: Places, *, target: int = 0, held: Places | None = None
    ) -> dict[str, float]:
        """Return every effect of s on the target's centred logit.

        Parameters
        ----------
        ids
            The prompt.
        s
            What is set.
        target
            The target token.
        held
            m, for the controlled direct effect: what is set in both of its worlds.

        Returns
        -------
        dict
            TE, NDE, NIE, TDE, TIE, INTmed, DE, CE, NORM; where ``held`` is given also CDE and INTref.
        """
        w = self.unembed[target] - self.unembed.mean(0)
        z, direct, total = self.moved(ids, s)
        sigma, after = self.sigma(z), self.sigma(z + total)
        y = float(z @ w / sigma)
        xx, xm = y, float((z + direct) @ w / sigma)
        mx, mm = float((z + total - direct) @ w / after), float((z + total) @ w / after)
        frozen = float((z + total) @ w / sigma)
        found = {
            "TE": mm - xx, "NDE": xm - xx, "NIE": mx - xx, "TDE": mm - mx, "TIE": mm - xm,
            "INTmed": float(direct @ w * (1 / after - 1 / sigma)),
            "DE": xm - xx, "CE": frozen - xm, "NORM": mm - frozen,
        }  # fmt: skip
        if held is not None:
            z0, _, change = self.moved(ids, s, held)
            found["CDE"] = float((z0 + change) @ w / self.sigma(z0 + change) - z0 @ w / self.sigma(z0))
            found["INTref"] = found["NDE"] - found["CDE"]
        return found


def linear_model(
    layers: int = 2, *, width: int = 8, vocab: int = 12, eps: float | None = None, parallel: bool = False, seed: int = 0
) -> LinearModel:
    """Return a random linear model whose vectors all have mean zero, so that a LayerNorm's centring does nothing."""
    rng = np.random.default_rng(seed)
    centre = np.eye(width) - 1.0 / width

    def maps() -> np.ndarray:
        return centre @ rng.normal(size=(layers, width, width)) @ centre / np.sqrt(width)

    embed = rng.normal(size=(vocab, width)) @ centre
    return LinearModel(maps(), maps(), embed, rng.normal(size=(vocab, width)) @ centre, eps, parallel)
