"""Dithered activations: one number per node and row, with noise of its own at every node."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.graph import CausalGraph, Edge, Node
from causalnet.interop.dowhy.names import node_id
from causalnet.interop.dowhy.twin import Compiled
from causalnet.prompts import Prompts, encode

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from causalnet.interop.dowhy.trunk import Trunk

__all__ = ["dithered"]


def dithered(
    model: Compiled,
    prompts: Prompts | Iterable[str],
    nodes: Iterable[Node | str],
    *,
    dither: float = 1.0,
    rows: int = 300,
    only: Iterable[Edge | str] | None = None,
    base: int = 0,
    seed: int = 0,
) -> "pd.DataFrame":
    """Run a part of a model with independent noise at every node, so that tests of independence mean something.

    Every node of the part is reduced to a line at the last position: the direction in which it varies most as its
    parents in the part vary, or, where it has none, over the prompts.  In each row, on one prompt, it is set to its
    natural value plus that direction times ``(how far its parents move it along the direction) + noise``.  So the
    numbers are an exact structural causal model with one variable per node, whose graph is the model's among these
    nodes; nodes outside the part keep their natural values.

    Parameters
    ----------
    model
        What :func:`causalnet.compile` returned.
    prompts
        At least two: what a node varies by over them is its signal.
    nodes
        The part: attentions, MLPs and heads.
    dither
        Standard deviation of the noise of a node with parents, in standard deviations of what its parents move it
        by (its signal).  0: such nodes are functions of their parents, and even the true graph is falsified.  Nodes
        without parents vary as they do over the prompts.
    rows
        How many rows.
    only
        Edges that are left alive; along every other edge among the nodes the natural value is read.  Default: all
        that the graph has.
    base
        The prompt on which the rows run.
    seed
        Of the noise.

    Returns
    -------
    pandas.DataFrame
        One row per draw, one column per node (``attn.05``), in standard deviations of the node's signal.

    Raises
    ------
    InputError
        If there are fewer than two prompts or rows, or a node has no signal.
    UnknownNodeError
        If the graph has no such node.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import causalnet as cn
    >>> config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=2, num_key_value_heads=2)
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> model = cn.compile(LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    >>> data = dithered(model, ["a bc def", "abcd ab"], ["mlp[0]", "attn[1]", "mlp[1]"], rows=20)
    >>> list(data), len(data)
    (['mlp.00', 'attn.01', 'mlp.01'], 20)
    """
    import pandas as pd
    import torch

    from causalnet.interop.dowhy.trunk import Trunk

    chosen = prompts if isinstance(prompts, Prompts) else Prompts.from_texts(prompts)
    if len(chosen) < 2 or rows < 2:
        raise InputError(f"{len(chosen)} prompts and {rows} rows: at least 2 of each are needed")
    if dither < 0:
        raise InputError(f"dither is a standard deviation, not {dither}")
    if not 0 <= base < len(chosen):
        raise InputError(f"base is the number of a prompt, from 0 to {len(chosen) - 1}, not {base}")
    given = [Node.parse(node) if isinstance(node, str) else node for node in nodes]
    graph = _graph(model.mechanisms.graph, given)
    part = graph.ordered({one for node in given for one in graph.resolve(node)})
    if strange := next((node for node in part if node.kind not in ("attn", "mlp", "head")), None):
        raise InputError(explain(f"{strange} is not dithered", legal=["attn[l]", "mlp[l]", "attn[l].head[h]"]))
    parents = {node: graph.parents(node) for node in part}
    alive = {(one, node) for node in part for one in parents[node]}
    if only is not None:
        alive = {(edge.source, edge.target) for edge in map(_edge, only)}
    trunk = Trunk(model.mechanisms)
    known = model.mechanisms
    encoded = encode(chosen, model.tokenizer, context=known.context, vocab_size=known.vocab, answers="ignore")
    natural = [_natural(trunk, graph, trunk.add(ids)) for ids in encoded.ids]
    rng = np.random.default_rng(seed)
    own = natural[base]
    values = [dict(own) for _ in range(rows)]
    table = np.empty((rows, len(part)))
    for column, node in enumerate(part):
        moved = own[node].new_zeros(rows, own[node].shape[-1])
        if any((one, node) in alive for one in part):
            for row, world in enumerate(values):
                read = {one: (world if (one, node) in alive else own)[one] for one in parents[node]}
                moved[row] = trunk.value(node, base, read)[-1] - own[node][-1]
        line = _line(moved, own[node][-1])
        level = dither
        if line is None:
            level, line = 1.0, _line(torch.stack([one[node][-1] for one in natural]), own[node][-1])
        if line is None:
            raise InputError(explain(f"{node} is the same in every prompt", mend="give prompts that differ"))
        direction, size = line
        signal = (moved @ direction).double().cpu().numpy() / size
        table[:, column] = signal + level * rng.standard_normal(rows)
        for row, world in enumerate(values):
            new = own[node].clone()
            new[-1] += table[row, column] * size * direction
            world[node] = new
    return pd.DataFrame(table, columns=[node_id(node) for node in part])


def _graph(graph: CausalGraph, nodes: Sequence[Node]) -> CausalGraph:
    """Open the layers whose heads are named."""
    layers = {node.layer for node in nodes if node.kind == "head" and node not in graph}
    return graph.with_heads(sorted(layer for layer in layers if layer is not None)) if layers else graph


def _edge(edge: Edge | str) -> Edge:
    return Edge.parse(edge) if isinstance(edge, str) else edge


def _natural(trunk: "Trunk", graph: CausalGraph, prompt: int) -> "dict[Node, torch.Tensor]":
    values = {Node("embed"): trunk.embeds[prompt]}
    for node in graph.nodes:
        if node.kind not in ("embed", "norm", "logits"):
            values[node] = trunk.value(node, prompt, {one: values[one] for one in graph.parents(node)})
    return values


def _line(values: "torch.Tensor", natural: "torch.Tensor") -> "tuple[torch.Tensor, float] | None":
    """Return the direction [width] in which values [row, width] vary most, and by how much; None: they do not."""
    import torch

    spread = values.double() - values.double().mean(0)
    _, sizes, directions = torch.linalg.svd(spread, full_matrices=False)
    size = float(sizes[0]) / (len(values) - 1) ** 0.5
    # What rounding leaves is no signal.
    return None if size <= 1e-6 * max(1.0, float(natural.norm())) else (directions[0].to(values), size)
