"""A randomised experiment on a model: every pass ablates a random set of nodes.

DoWhy estimates each node's effect from the passes alone and tries to refute the estimates; the engine knows the
same effects exactly, pass by pass.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.expr import LAST, Assignment, Outcome, Position, Site, Value, World, logit, target, zero
from causalnet.expr.refs import Component, Located
from causalnet.graph import Node
from causalnet.interop.dowhy.design import METHODS, REFUTERS, Design, Estimate, Refutation
from causalnet.interop.dowhy.names import node_id
from causalnet.interop.dowhy.twin import Compiled
from causalnet.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd

    from causalnet.effects.asking import PromptedModel

__all__ = ["RandomisedAblation"]


@dataclass(frozen=True, eq=False)
class RandomisedAblation:
    """The passes of a randomised ablation.

    Made by :meth:`run`.

    Attributes
    ----------
    data
        One row per pass: a column of 0 and 1 per node (``attn.05``: was it ablated?), ``outcome``, and what was
        known of the prompt beforehand: ``natural`` (its outcome with nothing ablated), ``length`` (tokens) and its
        numeric features.  ``prompt`` is its number.
    exact
        The engine's paired effect [pass, node]: the outcome with the node ablated less that with it left alone,
        all else as in the pass.
    alone
        The engine's effect [pass, node] of ablating the node and nothing else, on the pass's prompt.
    nodes
        The nodes by column.
    outcome
        What was read.
    seed
        Of the draws.
    """

    data: "pd.DataFrame"
    exact: "pd.DataFrame"
    alone: "pd.DataFrame"
    nodes: dict[str, Node]
    outcome: Outcome
    seed: int = 0

    @classmethod
    def run(
        cls,
        model: Compiled,
        prompts: Prompts | Iterable[str],
        *,
        nodes: Iterable[Node | str] | None = None,
        value: Value = zero,
        at: Position | None = LAST,
        outcome: Outcome | None = None,
        passes: int = 1500,
        share: float = 0.5,
        seed: int = 0,
        **options: Any,
    ) -> "RandomisedAblation":
        """Run the experiment.

        Parameters
        ----------
        model
            What :func:`causalnet.compile` returned.
        prompts
            The prompts; passes are spread evenly over them.
        nodes
            The nodes that may be ablated; default every attention and every MLP.
        value
            What an ablated node is set to: ``zero``, ``mean`` or ``resample`` (one donor per prompt).
        at
            Where; None: at every position.
        outcome
            What is read; default ``logit(target)``.
        passes
            How many passes, rounded up to as many for each prompt.
        share
            Probability with which each node is ablated, in each pass by itself.
        seed
            Of the subsets, and of the donors.
        options
            ``pool``, ``target``, ``strata``, ``same_target_donors``, as in
            :meth:`causalnet.CausalModel.evaluate`.

        Raises
        ------
        InputError
            For no passes, a share outside (0, 1), or a value that is not hard.
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
        >>> made = RandomisedAblation.run(model, ["a bc def", "abcd ab"], passes=40)
        >>> list(made.data)
        ['attn.00', 'mlp.00', 'attn.01', 'mlp.01', 'natural', 'length', 'outcome', 'prompt']
        >>> estimate = made.estimate("mlp[1]")
        >>> bool(estimate.low < estimate.value < estimate.high)
        True
        """
        from causalnet.effects.asking import on_prompts
        from causalnet.effects.options import Options

        chosen = prompts if isinstance(prompts, Prompts) else Prompts.from_texts(prompts)
        graph, read = model.mechanisms.graph, logit(target) if outcome is None else outcome
        given = [node for node in graph.nodes if node.kind in ("attn", "mlp")] if nodes is None else nodes
        treated = tuple(dict.fromkeys(node for one in given for node in graph.resolve(one)))
        _check(treated, value, passes, share)
        settings = [Assignment(_place(node, at), value) for node in treated]
        drawn = Options(donors=1, seed=seed, **options)
        scm = on_prompts(model.mechanisms, model.tokenizer, chosen, settings, outcome=read, options=drawn)
        sites = [(Site(node, at), value) for node in treated]
        each = -(-passes // len(chosen))
        rng = np.random.default_rng(seed)
        rows = []
        for prompt in range(len(chosen)):
            masks = (rng.random((each, len(treated))) < share).astype(np.int64)
            rows.append((masks, *_passes(scm, prompt, sites, read, masks)))
        return _framed(rows, chosen, scm.inputs.ids, treated, read, seed)

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that say something about the prompt."""
        return tuple(name for name in self.data if name not in self.nodes and name not in ("outcome", "prompt"))

    def design(self, node: Node | str) -> Design:
        """Return DoWhy's question about one node: what is treated, what is read, what could be a common cause.

        Each node is drawn by itself, so nothing need be adjusted for.  The other nodes and the features are drawn
        as possible common causes all the same: an arrow that may be there is the weaker assumption, and adjusting
        for what moves the outcome makes estimates precise.

        Raises
        ------
        InputError
            If the node was not part of the experiment, or was always or never ablated.
        """
        name = node_id(node if isinstance(node, Node) else Node.parse(node))
        if name not in self.nodes:
            legal = [str(one) for one in self.nodes.values()]
            raise InputError(explain(f"{node} was not ablated in these passes", legal=legal, got=str(node)))
        varied = {str(column) for column, count in self.data.nunique().items() if count > 1}
        if name not in varied:
            raise InputError(explain(f"every pass treats {node} alike", mend="run more passes"))
        others = [one for one in (*self.nodes, *self.features) if one != name and one in varied]
        common = _independent(self.data, name, others)
        kept: Any = self.data[[name, "outcome", *common]]
        return Design(kept, name, "outcome", tuple(common), self.seed)

    def estimate(self, node: Node | str, method: str = "regression") -> Estimate:
        """Let DoWhy estimate the mean effect of ablating a node, in the outcome's units.

        Parameters
        ----------
        node
            The node.
        method
            ``regression``, ``matching`` or ``weighting``.
        """
        return self.design(node).estimate(method)

    def refute(self, node: Node | str, refuter: str = "placebo", *, simulations: int = 100) -> Refutation:
        """Let DoWhy try to refute the estimate by regression.

        Parameters
        ----------
        node
            The node.
        refuter
            ``placebo`` (another pass's treatment: the effect should vanish), ``random_common_cause`` (it should
            stay) or ``dummy_outcome`` (it should vanish).
        simulations
            How many times.
        """
        return self.design(node).refute(refuter, simulations=simulations)

    def table(
        self,
        *,
        methods: Sequence[str] = METHODS,
        refuters: Sequence[str] = REFUTERS,
        simulations: int = 100,
    ) -> "pd.DataFrame":
        """Return the engine's paired exact effects beside DoWhy's estimates and refutations, one row per node.

        Returns
        -------
        pandas.DataFrame
            ``exact`` and ``alone`` (means over the passes), each method's estimate, ``low`` and ``high`` (its 95 %
            interval, of the regression) and for each refuter the new effect and its p-value (small: refuted).
        """
        import pandas as pd

        found = {}
        for name, node in self.nodes.items():
            design = self.design(node)
            row: dict[str, float] = {
                "exact": float(self.exact[name].to_numpy().mean()),
                "alone": float(self.alone[name].to_numpy().mean()),
            }
            for method in methods:
                one = design.estimate(method)
                row[method] = one.value
                if method == "regression":
                    row["low"], row["high"] = one.low, one.high
            for refuter in refuters:
                refutation = design.refute(refuter, simulations=simulations)
                row[refuter], row[f"{refuter}_p"] = refutation.new_effect, refutation.p_value
            found[str(node)] = row
        return pd.DataFrame.from_dict(found, orient="index")


def _independent(data: "pd.DataFrame", treatment: str, columns: Sequence[str]) -> list[str]:
    """Leave out what follows from the columns before it, as features do where there are few prompts."""

    def column(name: str) -> np.ndarray:
        values = data[name].to_numpy(dtype=np.float64)
        return (values - values.mean()) / values.std()

    kept, basis = [], [column(treatment)]
    for name in columns:
        wider = np.stack([*basis, column(name)])
        if np.linalg.matrix_rank(wider, tol=1e-6 * len(data) ** 0.5) == len(wider):
            kept.append(name)
            basis.append(wider[-1])
    return kept


def _check(nodes: Sequence[Node], value: Any, passes: int, share: float) -> None:
    if not getattr(value, "hard", False):
        raise InputError(explain(f"{value} is not a hard value", mend="ablate to zero, mean or resample"))
    if passes < 1:
        raise InputError(f"passes must be at least 1, not {passes}")
    if not 0 < share < 1:
        raise InputError(f"share is a probability between 0 and 1, not {share}")
    if strange := next((node for node in nodes if node.kind not in ("attn", "mlp", "head")), None):
        raise InputError(explain(f"{strange} is not ablated here", legal=["attn[l]", "mlp[l]", "attn[l].head[h]"]))
    if len(nodes) < 1:
        raise InputError("no nodes were given to ablate")


def _place(node: Node, at: Position | None) -> Any:
    one = Component.of(node)
    return one if at is None else Located(one, at)


def _passes(
    scm: "PromptedModel", prompt: int, sites: Sequence[tuple[Site, Any]], outcome: Outcome, masks: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Return outcomes [pass], the natural one, paired effects [pass, node] and effects alone [node] of a prompt."""
    from causalnet.engine.plan import Reading

    inputs = scm.inputs
    one = replace(
        scm,
        inputs=replace(
            inputs,
            ids=(inputs.ids[prompt],),
            spans=inputs.spans[prompt : prompt + 1],
            targets=None if inputs.targets is None else (inputs.targets[prompt],),
            donors=None if inputs.donors is None else inputs.donors[prompt : prompt + 1, :1],
            # Donors that are the other prompts have to be named, now that there is only one.
            pool=inputs if inputs.pool is None and inputs.donors is not None else inputs.pool,
            pairs={},
        ),
    )

    def reading(mask: np.ndarray) -> Reading:
        return Reading(World(tuple(site for site, on in zip(sites, mask, strict=True) if on)), outcome)

    flipped = masks[:, None] ^ np.eye(masks.shape[1], dtype=masks.dtype)
    single = np.eye(masks.shape[1], dtype=masks.dtype)
    wanted = {mask.tobytes(): reading(mask) for mask in (*masks, *flipped.reshape(-1, masks.shape[1]), *single)}
    natural = Reading(World(), outcome)
    values = one.read(list(dict.fromkeys([natural, *wanted.values()])))
    at = {key: float(values[found][0, 0]) for key, found in wanted.items()}
    base = float(values[natural][0, 0])
    own = np.array([at[mask.tobytes()] for mask in masks])
    other = np.array([[at[mask.tobytes()] for mask in row] for row in flipped])
    paired = np.where(masks == 1, own[:, None] - other, other - own[:, None])
    return own, base, paired, np.array([at[mask.tobytes()] - base for mask in single])


def _framed(
    rows: Sequence[tuple[Any, ...]],
    prompts: Prompts,
    ids: Sequence[Sequence[int]],
    nodes: Sequence[Node],
    outcome: Outcome,
    seed: int,
) -> RandomisedAblation:
    import pandas as pd

    names = [node_id(node) for node in nodes]
    numeric = {name: prompts.feature(name) for name in prompts.feature_names}
    numeric = {name: row for name, row in numeric.items() if all(isinstance(one, int | float) for one in row)}
    frames, exact, alone = [], [], []
    for prompt, (masks, own, base, paired, single) in enumerate(rows):
        frame = pd.DataFrame(masks, columns=names)
        # Features come before what could share their name.
        for name, row in numeric.items():
            if name not in (*names, "outcome", "natural", "length", "prompt"):
                frame[name] = float(row[prompt])  # type: ignore[arg-type]
        frames.append(frame.assign(natural=base, length=float(len(ids[prompt])), outcome=own, prompt=prompt))
        exact.append(paired)
        alone.append(np.broadcast_to(single, paired.shape))
    return RandomisedAblation(
        pd.concat(frames, ignore_index=True),
        pd.DataFrame(np.concatenate(exact), columns=names),
        pd.DataFrame(np.concatenate(alone), columns=names),
        dict(zip(names, nodes, strict=True)),
        outcome,
        seed,
    )
