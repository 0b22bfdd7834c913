"""Graphs, networks, tiny transformers and prompts drawn at random."""

from functools import cache
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from causalnet.graph import Block, CausalGraph
from causalnet.testing.networks import Network

if TYPE_CHECKING:
    from causalnet.engine.inputs import Inputs
    from causalnet.model.mechanism import Mechanisms
    from causalnet.testing.linear import LinearModel

__all__ = [
    "QUICK_FAMILIES",
    "blocks",
    "field_networks",
    "graphs",
    "linear_models",
    "linear_networks",
    "motif_networks",
    "prompts",
    "tiny_model",
    "tiny_models",
]

QUICK_FAMILIES = ("gpt2", "llama", "gptj", "gemma2", "mixtral")
"""One family of each kind of block: sequential, with RMSNorm and rotary positions, parallel, sandwiched between norms
with windows and a soft-cap, a mixture of experts."""


_SINGLE = ("xglm",)
"""Families that run in float32 only."""


@st.composite
def blocks(draw: st.DrawFn, *, most: int = 3, least: int = 1) -> tuple[Block, ...]:
    """Draw the layers of a transformer: attention, MLP or both, parallel or not, with heads, windows and mixers.

    Examples
    --------
    >>> from hypothesis import find
    >>> [block.kind for block in find(blocks(), lambda found: found[-1].parallel)]
    ['parallel']
    """
    found = []
    for layer in range(draw(st.integers(least, most))):
        attn, mlp = draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True)]))
        found.append(
            Block(
                layer,
                attn=attn,
                mlp=mlp,
                parallel=draw(st.booleans()),
                heads=draw(st.sampled_from([None, 1, 2])),
                window=draw(st.sampled_from([None, 1, 2])),
                mixer=draw(st.sampled_from(["attention", "convolution", "recurrent"])),
                heads_sum=draw(st.booleans()),
            )
        )
    return tuple(found)


@st.composite
def graphs(
    draw: st.DrawFn, *, most: int = 3, heads: bool = True, positions: int = 0, surgery: bool = False
) -> CausalGraph:
    """Draw the causal graph of a transformer.

    Parameters
    ----------
    most
        Layers at most.
    heads
        Whether the heads of a graph may be nodes.
    positions
        Unrolled over up to so many positions; 0: without positions.
    surgery
        Whether edges may be missing, so that the graph is any DAG in the order of computation.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(graphs(), lambda graph: graph.granularity == "head")
    CausalGraph(1 layers, 7 nodes, 12 edges, granularity='head')
    """
    graph = CausalGraph.from_blocks(draw(blocks(most=most)))
    if heads and draw(st.booleans()):
        graph = graph.with_heads()
    if positions and draw(st.booleans()):
        graph = graph.unroll(draw(st.integers(1, positions)))
    edges = list(graph.edges())
    if surgery and edges:
        graph = graph.remove_edges(draw(st.lists(st.sampled_from(edges), max_size=len(edges), unique=True)))
    return graph


@st.composite
def field_networks(draw: st.DrawFn, *, most: int = 3, length: int = 5) -> Network:
    """Draw a network over the whole numbers modulo a prime, in which identities hold without any tolerance.

    Parameters
    ----------
    most
        Layers at most.
    length
        Positions of every prompt.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(field_networks(), lambda network: True).graph
    CausalGraph('finite field', 1 layers, 5 nodes, 10 edges)
    """
    from causalnet.testing.finite import field_network

    return field_network(
        draw(st.integers(1, most)),
        width=draw(st.integers(2, 3)),
        length=length,
        heads=draw(st.sampled_from([None, None, 2])),
        parallel=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def linear_models(*, most: int = 3) -> "st.SearchStrategy[LinearModel]":
    """Draw linear transformers, which have closed forms for every effect, with a frozen or a real final norm.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(linear_models(), lambda model: len(model.attn) == 2).graph
    CausalGraph('linear', 2 layers, 7 nodes, 21 edges)
    """
    from causalnet.testing.linear import linear_model

    return st.builds(
        linear_model,
        st.integers(1, most),
        eps=st.sampled_from([None, 1e-5]),
        parallel=st.booleans(),
        seed=st.integers(0, 1000),
    )


@st.composite
def linear_networks(draw: st.DrawFn, *, most: int = 3, length: int = 5) -> Network:
    """Draw a linear transformer on three prompts, each with a donor.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(linear_networks(), lambda network: True).draws
    1
    """
    import numpy as np

    model = draw(linear_models(most=most))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    ids = [tuple(int(token) for token in rng.integers(0, len(model.embed), length)) for _ in range(3)]
    return model.network(ids, np.array([[1], [2], [0]]))


def motif_networks() -> st.SearchStrategy[Network]:
    """Draw one of the toy motifs: erasure, self-repair, redundancy, overdetermination.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(motif_networks(), lambda network: True).graph.name
    'erasure'
    """
    from causalnet.testing.motifs import MOTIFS, motif

    return st.sampled_from([*MOTIFS, "overdetermined"]).map(motif)


@cache
def tiny_model(family: str, *, dtype: str | None = None) -> "Mechanisms":
    """Return the compiled form of a small random transformer of a family, made once in a process.

    Parameters
    ----------
    family
        As in ``config.model_type``.
    dtype
        ``float64``, ``float32``, …; default float64, and float32 for the families whose code knows no other.

    Raises
    ------
    InputError, UnsupportedModelError
        If there is no such family, or it cannot be expressed.

    Examples
    --------
    >>> tiny_model("gptj").graph.blocks[0].kind
    'parallel'
    """
    import torch

    from causalnet.model.compile import compile_model
    from causalnet.model.small import small_model

    kind = dtype or ("float32" if family in _SINGLE else "float64")
    model = small_model(family, dtype=getattr(torch, kind), **_fields(family))
    return compile_model(model, name=family)


def _fields(family: str) -> dict[str, Any]:
    """Return the config fields that state-space mixers need for short prompts: they pad to whole chunks."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if family not in CONFIG_MAPPING:
        return {}
    config = CONFIG_MAPPING[family]()
    return {name: 4 for name in ("mamba_chunk_size", "chunk_size") if isinstance(getattr(config, name, None), int)}


def tiny_models(*families: str, dtype: str | None = None) -> "st.SearchStrategy[Mechanisms]":
    """Draw small random transformers, compiled; default :data:`QUICK_FAMILIES`.

    Parameters
    ----------
    families
        Any families that compile.
    dtype
        Of the weights; see :func:`tiny_model`.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(tiny_models("gpt2", "gptj"), lambda model: model.graph.blocks[0].parallel).name
    'gptj'
    """
    return st.sampled_from(families or QUICK_FAMILIES).map(lambda family: tiny_model(family, dtype=dtype))


@st.composite
def prompts(draw: st.DrawFn, model: Any) -> "Inputs":
    """Draw prompts for a compiled model: four of two lengths, with donors, paired prompts, a span and a vector.

    Parameters
    ----------
    model
        A model or its mechanisms.

    Returns
    -------
    SearchStrategy of Inputs
        Paired prompts are called ``corrupt``, the vector [d_model] ``direction``, the span ``subject``.

    Examples
    --------
    >>> from hypothesis import find
    >>> found = find(prompts(tiny_model("gpt2")), lambda inputs: len(inputs.ids[0]) == 6)
    >>> [len(ids) for ids in found.ids], sorted(found.pairs), sorted(found.vectors)
    ([6, 6, 7, 7], ['corrupt'], ['direction'])
    """
    from causalnet.testing.lab import ModelLab, lab_of
    from causalnet.testing.laws.law import units

    lab = lab_of(model)
    assert isinstance(lab, ModelLab), "networks bring their own prompts"
    return lab.inputs(draw(units(lab, mixed=True)))
