"""The executable twin: a model as DoWhy's structural causal model, whose mechanisms call the real modules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from causalnet.errors import ExpressionError, GraphError, InputError, explain
from causalnet.expr import Query, parse
from causalnet.graph import CausalGraph, Edge, Node
from causalnet.interop.dowhy.load import load, settled
from causalnet.interop.dowhy.names import edge_id, node_id
from causalnet.interop.dowhy.store import NO_NOISE, Store
from causalnet.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from causalnet.interop.dowhy.trunk import Trunk
    from causalnet.model.mechanism import Mechanisms

__all__ = ["Compiled", "Twin", "to_gcm"]

Way = Literal["interventional", "counterfactual"]


class Compiled(Protocol):
    """What :func:`causalnet.compile` returns."""

    @property
    def mechanisms(self) -> "Mechanisms":
        """The graph's nodes, bound to the model's own modules."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        ...


@dataclass(frozen=True, eq=False)
class Twin:
    """A model on its prompts as a DoWhy structural causal model.

    Made by :func:`to_gcm`.  Everything of ``dowhy.gcm`` that takes a causal model and data takes ``scm`` and
    ``data``.

    Attributes
    ----------
    scm
        The ``dowhy.gcm.InvertibleStructuralCausalModel``: its graph is a plain ``networkx.DiGraph`` of names
        such as ``attn.05``; its mechanisms call the model's modules.
    data
        The natural world, one row per prompt, one column per node: handles of tensors [position, width].
    store
        Where the handles lead: ``twin.store[handle]``.
    graph
        The causal graph.
    edges
        The edges that can be set: each has a node of its own, a copy of its source that its target reads.
    """

    scm: Any
    data: "pd.DataFrame"
    store: Store
    graph: CausalGraph
    edges: tuple[Edge, ...]
    prompts: Prompts
    model: Compiled = field(repr=False)
    trunk: "Trunk" = field(repr=False)
    seed: int = 0

    def value(self, frame: "pd.DataFrame", row: int, node: Node | str) -> "torch.Tensor":
        """Return the value [position, width] of a node in one row of data."""
        one = Node.parse(node) if isinstance(node, str) else node
        return self.store[frame[node_id(one)].iloc[row]]

    def samples(
        self,
        interventions: Mapping[str, Callable[[float], float]],
        *,
        observed: "pd.DataFrame | None" = None,
        way: Way = "interventional",
    ) -> "pd.DataFrame":
        """Ask DoWhy for the rows in a world.

        Parameters
        ----------
        interventions
            From names of nodes (``attn.05``) to functions from a handle to a handle; :meth:`setting` makes them.
        observed
            The rows as they were observed; default :attr:`data`.
        way
            ``interventional``: what lies downstream is computed anew.  ``counterfactual``: abduction, action,
            prediction; what an observed value differs by from the computed one is kept as its noise.

        Returns
        -------
        pandas.DataFrame
            Handles, one row per observed row.
        """
        if way not in ("interventional", "counterfactual"):
            legal = ["interventional", "counterfactual"]
            raise InputError(explain(f"unknown way {way!r}", legal=legal, got=str(way)))
        gcm = load()
        ask = gcm.interventional_samples if way == "interventional" else gcm.counterfactual_samples
        with settled(self.seed):
            return ask(self.scm, dict(interventions), observed_data=self.data if observed is None else observed)

    def computed(self, embeds: Sequence[float]) -> "pd.DataFrame":
        """Return rows in the natural world, from the handles of their embeddings."""
        import pandas as pd

        gcm = load()
        noise = pd.DataFrame(float(NO_NOISE), index=range(len(embeds)), columns=sorted(self.scm.graph.nodes))
        noise["embed"] = np.asarray(embeds, dtype=np.float64)
        with settled(self.seed):
            return gcm.counterfactual_samples(self.scm, {}, noise_data=noise)

    def setting(self, change: "Callable[[int, torch.Tensor], torch.Tensor]") -> Callable[[float], float]:
        """Return an intervention: ``change`` takes a prompt's number and the value that the node would have.

        Examples
        --------
        ``twin.samples({"attn.01": twin.setting(lambda prompt, value: 0 * value)})`` sets an attention to zero.
        """

        def intervene(handle: float) -> float:
            prompt = self.store.prompt(handle)
            return float(self.store.put(prompt, change(prompt, self.store[handle])))

        return intervene

    def evaluate(self, query: Query | str, *, way: Way = "interventional", **options: Any) -> np.ndarray:
        """Answer a do-expression through DoWhy, unit by unit.

        With the engine this shares the language, the tokens and the choice of donors, which are exogenous; every
        value is computed by the twin.

        Parameters
        ----------
        query
            The query, or its text.  ``noise`` is not drawn here, and conditions are not read.
        way
            As in :meth:`samples`.
        options
            ``donors``, ``pool``, ``seed``, ``target``, ``vectors``, as in :meth:`causalnet.CausalModel.evaluate`.

        Returns
        -------
        numpy.ndarray
            [prompt, donor] in the outcome's units, NaN where a prompt has fewer donors.

        Raises
        ------
        ExpressionError, UnknownNodeError, PromptError
            If the query cannot be meant, or asks for what the twin does not draw.
        """
        from causalnet.effects.options import Options
        from causalnet.effects.prepare import prepare
        from causalnet.interop.dowhy.asked import Asked

        asked = parse(query) if isinstance(query, str) else query
        given = Options(**options)
        # The twin's graph may differ from the model's: what a query means is read off the twin's.
        known = replace(self.model.mechanisms, graph=self.graph.without_resid())
        ready = prepare(known, self.model.tokenizer, [asked], self.prompts, given)
        (question,) = ready.questions
        if any(one.condition is not None for one in question.compiled.readings):
            mend = "leave the condition out, and choose the prompts"
            raise ExpressionError(explain(f"{asked} asks for a subgroup", mend=mend))
        edges = tuple(
            dict.fromkeys(
                Edge(site.node, site.receiver)
                for world in question.compiled.worlds
                for site in world.sites
                if site.receiver is not None
            )
        )
        twin = self
        if question.compiled.graph != self.graph or not set(edges) <= set(self.edges):
            twin = to_gcm(self.model, self.prompts, graph=question.compiled.graph, edges=edges, seed=self.seed)
        before = len(twin.store)
        try:
            return Asked(twin, ready, way).table()
        finally:
            twin.store.release(before)
            twin.trunk.release(len(self.prompts))


def to_gcm(
    model: Compiled,
    prompts: Prompts | Iterable[str],
    *,
    graph: CausalGraph | None = None,
    edges: Iterable[Edge | str] = (),
    seed: int = 0,
) -> Twin:
    """Make a model on its prompts a structural causal model of DoWhy.

    It is a second implementation of ``do``: DoWhy propagates, and each mechanism calls one layer's own modules
    with what the node's parents in the graph wrote, and with nothing else.  Where the graph lacks an edge, the
    twin differs from the model.

    Parameters
    ----------
    model
        What :func:`causalnet.compile` returned.
    prompts
        The prompts, or plain texts.
    graph
        The causal graph; default the model's.  Heads and residual streams may be nodes
        (``model.graph.with_heads([1])``, ``model.graph.with_resid(2)``).
    edges
        Edges that are to be set (``"attn[1] -> mlp[2]"``); each becomes a node of its own.
    seed
        Of the draws of prompts, and of DoWhy.

    Returns
    -------
    Twin

    Raises
    ------
    InputError
        If DoWhy is not installed.
    GraphError
        If the graph is unrolled over positions (values hold all of them), or an edge is none.

    Notes
    -----
    DoWhy's variables are scalars, so data frames hold handles of tensors.  They are labels: means and
    regressions of them say nothing.

    References
    ----------
    Blöbaum, Götz, Budhathoki, Mastakouri and Janzing, DoWhy-GCM (2024).

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import causalnet as cn
    >>> config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=2, num_key_value_heads=2)
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> model = cn.compile(LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    >>> twin = to_gcm(model, ["a bc def", "abcd ab"])
    >>> sorted(twin.data)
    ['attn.00', 'attn.01', 'embed', 'logits', 'mlp.00', 'mlp.01', 'norm']
    >>> twin.evaluate("TE(attn[1]@last = zero)").shape
    (2, 1)
    """
    from causalnet.interop.dowhy.trunk import Trunk

    chosen = prompts if isinstance(prompts, Prompts) else Prompts.from_texts(prompts)
    graph = model.mechanisms.graph if graph is None else graph
    if graph.positions:
        raise GraphError("the graph is unrolled over positions; the twin's values hold every position")
    cut = tuple(Edge.parse(edge) if isinstance(edge, str) else edge for edge in edges)
    for edge in cut:
        if not graph.has_edge(edge.source, edge.target):
            raise GraphError(f"{edge} is not an edge of the graph, so nothing reads it")
    trunk = Trunk(model.mechanisms)
    store = Store()
    for ids in _encoded(model, chosen):
        trunk.add(ids)
    handles = [store.put(row, embed) for row, embed in enumerate(trunk.embeds)]
    scm = _scm(trunk, graph, cut, store, handles, seed)
    made = Twin(scm, None, store, graph, cut, chosen, model, trunk, seed)  # type: ignore[arg-type]
    return replace(made, data=made.computed(handles))


def _encoded(model: Compiled, prompts: Prompts) -> tuple[tuple[int, ...], ...]:
    from causalnet.prompts import encode

    known = model.mechanisms
    found = encode(prompts, model.tokenizer, context=known.context, vocab_size=known.vocab, answers="ignore")
    return found.ids


def _scm(
    trunk: "Trunk", graph: CausalGraph, edges: Sequence[Edge], store: Store, handles: Sequence[int], seed: int
) -> Any:
    """Build DoWhy's model: a graph of names of its own, a mechanism for each, and the parents that it expects."""
    import networkx as nx

    from causalnet.interop.dowhy.mechanisms import Modules, Prompted

    models = load("dowhy.gcm.causal_models")
    # What each parent in DoWhy's graph holds: a node's value, read as it is or through an edge that can be set.
    names: dict[Node, dict[str, Node]] = {node: {} for node in graph.nodes}
    for source, target in graph.edges():
        edge = Edge(source, target)
        names[target][edge_id(edge) if edge in edges else node_id(source)] = source
    for node in graph.nodes:
        if node.kind == "bias":  # a constant: it takes no value from embed, only the prompt whose positions it fills
            names[node][node_id(Node("embed"))] = Node("embed")
    drawn = nx.DiGraph()
    drawn.add_nodes_from(map(node_id, graph.nodes))
    drawn.add_edges_from((name, node_id(target)) for target, parents in names.items() for name in parents)
    drawn.add_edges_from((node_id(edge.source), edge_id(edge)) for edge in edges)
    scm = models.InvertibleStructuralCausalModel(drawn)
    for node, parents in names.items():
        ordered = tuple(parents[name] for name in sorted(parents))
        compute = partial(_computed, trunk, node, ordered)
        scm.set_causal_mechanism(node_id(node), Modules(compute, store) if parents else Prompted(handles, seed))
    for edge in edges:
        scm.set_causal_mechanism(edge_id(edge), Modules(_copied, store))
    for name in drawn.nodes:  # what fitting would note: by which parents a mechanism was made
        drawn.nodes[name][models.PARENTS_DURING_FIT] = sorted(drawn.predecessors(name))
    return scm


def _computed(
    trunk: "Trunk", node: Node, parents: Sequence[Node], prompt: int, values: Sequence["torch.Tensor"]
) -> "torch.Tensor":
    return trunk.value(node, prompt, dict(zip(parents, values, strict=True)))


def _copied(prompt: int, values: Sequence["torch.Tensor"]) -> "torch.Tensor":
    return values[0]
