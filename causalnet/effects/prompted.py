"""A causal model on prompts: one place from which every estimand can be asked for.

What is exogenous (prompts, donors, noise, targets) is chosen once; every method then names an intervention and
returns labelled results with their intervals.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from causalnet.effects import estimands
from causalnet.effects.given import Set, assignments_of, nodes_of, queries_of, text_of
from causalnet.effects.labelled import causes_named, self_repair_named, shares_named, split_named
from causalnet.effects.options import Options
from causalnet.effects.result import Result
from causalnet.effects.table import Effects
from causalnet.errors import InputError, explain
from causalnet.expr import LAST, RESAMPLE, TARGET, Assignment, Do, Outcome, Query
from causalnet.expr.positions import Position
from causalnet.expr.values import Under, Value
from causalnet.graph import Edge, Node

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.effects.causality import Event
    from causalnet.effects.misses import Comparison
    from causalnet.effects.shapley import Solver
    from causalnet.effects.units import Units
    from causalnet.engine.elsewhere import Elsewhere
    from causalnet.model.mechanism import Mechanisms
    from causalnet.prompts import Prompts

__all__ = ["METHODS", "Prompted"]

METHODS = ("attribution patching", "integrated gradients", "AtP*", "EAP-IG")
"""The approximations that :meth:`Prompted.approximate` knows."""

LOGIT = Outcome("logit", (TARGET,))


@dataclass(frozen=True, eq=False)
class Prompted:
    """A causal model on prompts; made by :meth:`causalnet.CausalModel.on`.

    Every method takes the intervention s as assignments (objects or texts; several are one joint intervention) and
    an outcome, default the target's logit.  An effect is ``Y(do) − Y`` in the outcome's units: ablating a promoting
    node has a negative TE.  Means are over prompts of the means over each prompt's donors.

    Attributes
    ----------
    mechanisms, tokenizer
        The compiled model.
    prompts
        The prompts.
    options
        Donors, pool, seed, target, vectors, level.
    memory
        Bytes that rows and natural runs may take together, see :func:`causalnet.engine.run.run`; default: found
        from the device.
    progress
        Called with (rows done, rows in all).
    elsewhere
        Who runs do-expressions, where it is not this process.

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import causalnet as cn
    >>> from causalnet import attn, last, zero
    >>> config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=2, num_key_value_heads=2)
    >>> model = cn.compile(LlamaForCausalLM(config).eval(),
    ...                    tokenizer=lambda text: {"input_ids": [len(word) for word in text.split()]})
    >>> on = model.on(["a bc " + "d" * (1 + i % 9) for i in range(30)])
    >>> found = on.split(attn[0] @ last << zero)
    >>> list(found)
    ['TE', 'DE', 'CE', 'NORM', 'self-repair', 'mlp[0]', 'attn[1]', 'mlp[1]']
    >>> parts = found["DE"].value + found["CE"].value + found["NORM"].value
    >>> bool(abs(found["TE"].value - parts) < 1e-6)
    True
    """

    mechanisms: "Mechanisms"
    tokenizer: Any
    prompts: "Prompts"
    options: Options
    memory: int | None = None
    progress: Callable[[int, int], None] | None = None
    elsewhere: "Elsewhere | None" = None

    def __repr__(self) -> str:
        return f"Prompted({self.mechanisms.name}: {len(self.prompts)} prompts, target {self.options.target})"

    # -- by queries ------------------------------------------------------------------------------------

    @overload
    def evaluate(self, query: Query | str) -> Result: ...
    @overload
    def evaluate(self, query: Sequence[Query | str]) -> list[Result]: ...
    def evaluate(self, query: Query | str | Sequence[Query | str]) -> Result | list[Result]:
        """Answer a do-expression; see :meth:`causalnet.CausalModel.evaluate`."""
        queries, several = queries_of(query)
        found = self._estimated(queries)
        return found if several else found[0]

    def natural_effects(self, *s: Set, outcome: Outcome = LOGIT) -> Effects:
        """Return TE, NDE, NIE, TDE, TIE and INTmed; see :func:`causalnet.effects.estimands.natural_effects`."""
        made = assignments_of(s)
        return self._named(made, estimands.natural_effects(*made, outcome=outcome))

    def four_way(self, *s: Set, held: Sequence[Set], outcome: Outcome = LOGIT) -> Effects:
        """Return TE and VanderWeele's four parts of it; see :func:`causalnet.effects.estimands.four_way`.

        Parameters
        ----------
        s, outcome
            As in :meth:`natural_effects`.
        held
            m: assignments to mediators; CDE and INTref are relative to it.
        """
        made = assignments_of(s)
        queries = {"TE": estimands.natural_effects(*made, outcome=outcome)["TE"]}
        return self._named(made, queries | estimands.four_way(*made, held=assignments_of(held), outcome=outcome))

    def controlled_direct(self, *s: Set, held: Sequence[Set], outcome: Outcome = LOGIT) -> Result:
        """Return CDE(m); see :func:`causalnet.effects.estimands.controlled_direct`."""
        made = estimands.controlled_direct(*assignments_of(s), held=assignments_of(held), outcome=outcome)
        return self._estimated([made])[0]

    def path_specific(self, *s: Set, edges: Iterable[Edge | str], outcome: Outcome = LOGIT) -> Result:
        """Return PSE(A), the effect along the edges A alone; see :func:`causalnet.effects.estimands.path_specific`.

        Parameters
        ----------
        s, outcome
            As in :meth:`natural_effects`.
        edges
            A, such as ``["attn[3] -> mlp[5]", "mlp[5] -> logits"]``.
        """
        from causalnet.expr.places import head_layers, with_heads

        made, graph = assignments_of(s), self.mechanisms.graph
        along = [Edge.parse(edge) if isinstance(edge, str) else Edge(*edge) for edge in edges]
        layers = {node.layer for edge in along for node in edge if node.kind in ("head", "bias")}
        layers |= head_layers(graph, [Do(made)])
        graph = with_heads(graph, [layer for layer in layers if layer is not None])
        return self._estimated([estimands.path_specific(*made, edges=along, graph=graph, outcome=outcome)])[0]

    def interaction(self, *s: Set, outcome: Outcome = LOGIT) -> Effects:
        """Return the joint effect, each assignment's own, and what the joint one has beyond their sum."""
        made = assignments_of(s)
        return self._named(made, estimands.interaction(*made, outcome=outcome))

    # -- by the last edge ------------------------------------------------------------------------------

    def split(self, *s: Set, outcome: Outcome = LOGIT) -> Effects:
        """Split TE = DE + CE + NORM, with the change of every responder's direct effect.

        Returns
        -------
        Effects
            ``TE, DE, CE, NORM, self-repair`` (= CE + NORM) and, with a linear outcome, one entry per responder: its
            ΔDE; these sum to CE.  ``units`` is the :class:`~causalnet.effects.decompose.Split`, whose ``residual`` is
            the closure by two routes.
        """
        from causalnet.effects.decompose import split

        made = assignments_of(s)
        units = self._units([made], outcome)
        found = split(units.scm, *made, outcome=outcome)
        return split_named(units, found, text_of(made))

    def self_repair(self, *s: Set, outcome: Outcome = LOGIT) -> Effects:
        """Return how much of what s takes away directly comes back.

        Returns
        -------
        Effects
            ``self-repair`` = TE − DE and ``lost`` = −DE in the outcome's units; ``pooled`` = Σ self-repair / Σ lost
            and, beside it, ``mean of ratios``, which a single unit that lost next to nothing can carry anywhere.

        References
        ----------
        Rushing and Nanda, Explorations of self-repair in language models (2024).
        """
        from causalnet.effects.decompose import split

        made = assignments_of(s)
        units = self._units([made], outcome)
        return self_repair_named(units, split(units.scm, *made, outcome=outcome), text_of(made))

    def compensation(
        self,
        value: Value = RESAMPLE,
        *,
        nodes: Iterable[Node | str] | None = None,
        position: Position | None = LAST,
        outcome: Outcome | None = None,
    ) -> "xr.Dataset":
        """Set every node in turn and split its effect: compensation by (treated node, responder) over the whole graph.

        Parameters
        ----------
        value
            What each is set to.
        nodes
            The nodes to set; default every attention and MLP layer.
        position
            Where; None: at every position.
        outcome
            A linear outcome; default the target's logit, before the soft-cap where there is one.

        Returns
        -------
        xarray.Dataset
            ``te, de, ce, norm, residual [prompt, node, donor]``, ``delta_de [prompt, node, donor, responder]`` and the
            rest of the sweep schema; :func:`causalnet.effects.summarise` gives slopes, nulls and corrections.
        """
        from causalnet.effects.estimate import token_text
        from causalnet.effects.sweep import sweep
        from causalnet.expr.refs import Component, Located

        if isinstance(value, Under):
            raise InputError(explain("a sweep sets every node to one kind of value", mend=f"ask for TE(… = {value})"))
        graph = self.mechanisms.graph
        every = [node for node in graph.contributors if node.kind in ("attn", "mlp", "head")]
        chosen = every if nodes is None else nodes_of(nodes)
        refs = [Component.of(node) for node in chosen]
        made = [Assignment(ref if position is None else Located(ref, position), value) for ref in refs]
        units = self._units([[one] for one in made], LOGIT if outcome is None else outcome)
        return sweep(
            self.mechanisms,
            units.scm.inputs,
            chosen,
            value,
            texts=units.texts,
            decode=lambda token: token_text(self.tokenizer, token),
            record=units.record,
            position=position,
            outcome=outcome,
            lookup=units.scm.lookup,
            memory=self.memory,
            progress=self.progress,
        )

    # -- by search and sampling ------------------------------------------------------------------------

    def shapley(
        self,
        *s: Set,
        outcome: Outcome = LOGIT,
        players: Mapping[str, Iterable[Node | str]] | None = None,
        norm: Literal["player", "held"] = "player",
        exact_up_to: int = 10,
        samples: int = 64,
        solver: "Solver | None" = None,
    ) -> Effects:
        """Attribute TE − NDE to the nodes that respond; see :func:`causalnet.effects.shapley.compensation_shapley`.

        Returns
        -------
        Effects
            One entry per player; they sum to TE − NDE in every unit.  ``units`` is the
            :class:`~causalnet.effects.shapley.Shares`, with the standard error of each share over sampled orders.
        """
        from causalnet.effects.shapley import compensation_shapley

        made = assignments_of(s)
        units = self._units([made], outcome)
        groups = None if players is None else {name: nodes_of(some) for name, some in players.items()}
        found = compensation_shapley(
            units.scm,
            *made,
            outcome=outcome,
            players=groups,
            norm=norm,
            exact_up_to=exact_up_to,
            samples=samples,
            seed=int(self.options.seed),
            solver=solver,
        )
        return shares_named(units, found, text_of(made), outcome)

    def responsibility(
        self,
        *contrasts: Set,
        event: "Event | None" = None,
        witnesses: Iterable[Node | str] | None = None,
        most_worlds: int = 4096,
    ) -> Effects:
        """Find the actual causes of an event; see :func:`causalnet.effects.causality.actual_causes`.

        Returns
        -------
        Effects
            The mean responsibility of each candidate, over the prompts in which the event is true; the notes name the
            most frequent cause of each with its smallest witness.  ``units`` is the
            :class:`~causalnet.effects.causality.Causes`, with the causes and witnesses of every unit.
        """
        from causalnet.effects.causality import Event, actual_causes

        made, event = assignments_of(contrasts), Event() if event is None else event
        units = self._units([[one] for one in made], event.outcome)
        named = None if witnesses is None else nodes_of(witnesses)
        found = actual_causes(units.scm, *made, event=event, witnesses=named, most_worlds=most_worlds)
        return causes_named(units, found, event)

    # -- by gradients ----------------------------------------------------------------------------------

    def approximate(
        self,
        interventions: Mapping[str, Any] | Iterable[Set] | None = None,
        *,
        method: str = "attribution patching",
        outcome: Outcome = LOGIT,
        steps: int = 16,
        worst: int = 5,
    ) -> "Comparison":
        """Estimate many total effects by gradients, beside the exact ones.

        Parameters
        ----------
        interventions
            Assignments to nodes or edges, or by name one assignment (or several that are made together) each; default
            ``resample`` of every attention and MLP layer at the last position.
        method
            One of :data:`METHODS`.
        outcome
            A smooth outcome.
        steps
            Points on the way, for the two methods that integrate.
        worst
            How many misses to list.

        Returns
        -------
        Comparison
            Estimates and exact effects [prompt, draw, intervention], rank correlation, the worst misses beside the
            self-repair that the gradients do not see.

        Raises
        ------
        InputError
            If there is no such method, or it does not fit an intervention.
        """
        from causalnet.effects import approximate as by
        from causalnet.effects.misses import compare_approximation

        if method not in METHODS:
            raise InputError(explain(f"unknown method {method!r}", legal=METHODS, got=str(method)))
        named = self._interventions(interventions)
        units = self._units(list(named.values()), outcome)
        if method == "attribution patching":
            found = by.attribution_patching(units.scm, named, outcome=outcome)
        elif method == "integrated gradients":
            found = by.integrated_gradients(units.scm, named, outcome=outcome, steps=steps)
        elif method == "AtP*":
            found = by.atp_star(units.scm, named, outcome=outcome)
        else:
            found = by.eap_ig(units.scm, named, outcome=outcome, steps=steps)
        return compare_approximation(units.scm, found, worst=worst)

    # -- inside ----------------------------------------------------------------------------------------

    def _interventions(self, given: Mapping[str, Any] | Iterable[Set] | None) -> dict[str, tuple[Assignment, ...]]:
        if given is None:
            from causalnet.expr.refs import Component, Located

            nodes = [node for node in self.mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
            return {str(node): (Assignment(Located(Component.of(node), LAST), RESAMPLE),) for node in nodes}
        if isinstance(given, Mapping):
            return {
                str(name): assignments_of([s] if isinstance(s, Assignment | str) else s) for name, s in given.items()
            }
        return {str(one): assignments_of([one]) for one in given}

    def _units(self, made: Sequence[Sequence[Assignment]], outcome: Outcome) -> "Units":
        from causalnet.effects.units import units_of

        return units_of(
            self.mechanisms,
            self.tokenizer,
            self.prompts,
            made,
            outcome,
            self.options,
            memory=self.memory,
            progress=self.progress,
        )

    def _estimated(self, queries: Sequence[Query]) -> list[Result]:
        from causalnet.effects.estimate import estimate

        return estimate(
            self.mechanisms,
            self.tokenizer,
            queries,
            self.prompts,
            self.options,
            memory=self.memory,
            progress=self.progress,
            elsewhere=self.elsewhere,
        )

    def _named(self, made: Sequence[Assignment], queries: Mapping[str, Query]) -> Effects:
        found = self._estimated(list(queries.values()))
        return Effects(text_of(made), dict(zip(queries, found, strict=True)))
