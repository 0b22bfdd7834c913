"""The causal graph of a transformer: nodes, edges, queries, surgery, and its exchange with files.

>>> from causalnet.graph import Block, CausalGraph
>>> graph = CausalGraph.from_blocks([Block(0), Block(1)])
>>> graph.is_d_separated("embed", "logits", ["attn[0]", "mlp[0]"])
False
"""

from causalnet.graph.block import Block
from causalnet.graph.graph import CausalGraph, EdgeLike, NodeLike, NodesLike
from causalnet.graph.node import Edge, Kind, Node

__all__ = ["Block", "CausalGraph", "Edge", "EdgeLike", "Kind", "Node", "NodeLike", "NodesLike"]
