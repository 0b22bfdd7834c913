"""Testing a hypothesised circuit: whether dithered activations have the independences that it implies."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from causalnet.errors import GraphError, InputError, UnknownNodeError, explain
from causalnet.graph import Edge, Node
from causalnet.interop.dowhy.load import load, settled
from causalnet.interop.dowhy.names import node_id, node_of

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

__all__ = ["Falsification", "falsify_circuit"]

TESTS = ("kernel", "linear")


@dataclass(frozen=True)
class Falsification:
    """What the data say about a circuit.

    Attributes
    ----------
    tests
        How many independences the circuit implies: each node from what is not downstream, given its parents.
    violations
        Those that the data do not have: (node, other node, p-value).
    falsified
        Whether independences are violated, and no fewer than by its own shape with the nodes exchanged at random.
    falsifiable
        Whether such an exchange would imply other independences; where not, ``falsified`` says nothing.
    p_value
        Share of the exchanged circuits that have no more violations than this one.
    p_same
        Share of the exchanged circuits that imply the very same independences.
    """

    tests: int
    violations: tuple[tuple[Node, Node, float], ...]
    falsified: bool
    falsifiable: bool
    p_value: float
    p_same: float

    def __str__(self) -> str:
        if not self.falsifiable:
            words = f"not falsifiable: {self.p_same:.0%} of exchanges of its nodes imply the same independences"
        else:
            words = f"{'falsified' if self.falsified else 'not falsified'} (p = {self.p_value:.2f} of exchanges)"
        pairs = "".join(f"\n  {one} and {other} are dependent, p = {p:.1e}" for one, other, p in self.violations)
        return f"{words}; {len(self.violations)} of {self.tests} implied independences violated{pairs}"


def falsify_circuit(
    edges: Iterable[Edge | str],
    data: "pd.DataFrame",
    *,
    test: str = "kernel",
    significance: float = 0.05,
    permutations: int = 100,
    seed: int = 0,
) -> Falsification:
    """Try to falsify a hypothesised circuit.

    Parameters
    ----------
    edges
        The circuit: ``["attn[0] -> mlp[1]", …]``.
    data
        One row per draw and one column per node, as :func:`dithered` returns.  Activations as they are will not
        do: they are functions of each other, and falsify even the true graph.
    test
        ``kernel``: independence of any form (seconds per test from about 500 rows).  ``linear``: partial
        correlation, which is fast and sees what is linear.
    significance
        Of each test, and of the comparison with exchanged nodes.
    permutations
        How many exchanges.
    seed
        Of the exchanges and of the tests.

    Returns
    -------
    Falsification

    Raises
    ------
    GraphError
        If there is a cycle, or nothing to test: in a dense graph every pair of nodes is joined, so it implies no
        independence.
    UnknownNodeError
        If the data lack a node.

    References
    ----------
    Eulig et al., Toward falsifying causal graphs using a permutation-based test (2023).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> draw = np.random.default_rng(0)
    >>> a = draw.standard_normal((200, 5))
    >>> for child in range(1, 5):
    ...     a[:, child] += a[:, child - 1]
    >>> data = pd.DataFrame(a, columns=["attn.00", "attn.01", "mlp.01", "attn.02", "mlp.02"])
    >>> chain = ["attn[0] -> attn[1]", "attn[1] -> mlp[1]", "mlp[1] -> attn[2]", "attn[2] -> mlp[2]"]
    >>> falsify_circuit(chain, data, test="linear").falsified
    False
    """
    import networkx as nx

    if test not in TESTS:
        raise InputError(explain(f"unknown test {test!r}", legal=TESTS, got=test))
    if permutations < 1:
        raise InputError(f"permutations must be at least 1, not {permutations}")
    if not 0 < significance < 1:
        raise InputError(f"significance must lie between 0 and 1, not {significance}")
    parsed = [Edge.parse(edge) if isinstance(edge, str) else edge for edge in edges]
    graph = nx.DiGraph([(node_id(edge.source), node_id(edge.target)) for edge in parsed])
    for name in graph:
        if name not in data:
            what = f"the data have no column of {node_of(name)}"
            raise UnknownNodeError(explain(what, legal=map(str, data.columns), got=name))
    if not nx.is_directed_acyclic_graph(graph):
        raise GraphError("the circuit has a cycle; edges go from what is written to what reads it")
    if not count_tests(graph):
        mend = "test a sparse circuit; a model's own layer graph, in which each node reads all earlier ones, is dense"
        what = f"every two of the {len(graph)} nodes are joined, so the circuit implies 0 independences to test"
        raise GraphError(explain(what, mend=mend))
    found = load("dowhy.gcm.falsify")
    with settled(seed):
        result = found.falsify_graph(
            graph,
            data[sorted(graph)],
            independence_test=_independence(test),
            conditional_independence_test=_independence(test),
            significance_level=significance,
            significance_ci=significance,
            n_permutations=permutations,
            show_progress_bar=False,
            n_jobs=1,
        )
    const = found.FalsifyConst
    markov, same = result.summary[const.VALIDATE_LMC], result.summary[const.VALIDATE_TPA]
    pairs = markov[const.LOCAL_VIOLATION_INSIGHT].items()
    worst = sorted((p, one, other) for (one, other), (p, violated) in pairs if violated)
    return Falsification(
        int(markov[const.N_TESTS]),
        tuple((node_of(one), node_of(other), float(p)) for p, one, other in worst),
        # DoWhy also calls a circuit falsified of which nothing is violated, where exchanged ones fit as well.
        bool(result.falsified and worst),
        bool(result.falsifiable),
        float(markov[const.P_VALUE]),
        float(same[const.P_VALUE]),
    )


def count_tests(graph: "nx.DiGraph") -> int:
    """Return how many independences a graph implies: of each node from what is not downstream, given its parents."""
    import networkx as nx

    return sum(
        len(graph) - 1 - len(nx.descendants(graph, name)) - graph.in_degree(name)  # type: ignore[operator]
        for name in graph
    )


def _independence(test: str) -> Any:
    if test == "linear":
        return _partial_correlation
    return partial(load("dowhy.gcm.independence_test").kernel_based)


def _partial_correlation(x: Any, y: Any, given: Any = None) -> float:
    """Return the p-value of the partial correlation of two columns given others."""
    import numpy as np
    from scipy import stats

    columns = np.column_stack([np.ones(len(x)), *([] if given is None else [given])])
    rest = [one - columns @ np.linalg.lstsq(columns, one, rcond=None)[0] for one in (np.ravel(x), np.ravel(y))]
    free = len(x) - columns.shape[1] - 1
    scale = float(np.linalg.norm(rest[0]) * np.linalg.norm(rest[1]))
    if scale == 0:
        return 1.0
    r = min(max(float(rest[0] @ rest[1]) / scale, -1.0), 1.0)
    if abs(r) == 1:
        return 0.0
    return float(2 * stats.t.sf(abs(r) * (free / (1 - r * r)) ** 0.5, free))
