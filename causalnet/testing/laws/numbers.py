"""Laws of answers: plans, batches, identities of mediation, closed forms, intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from causalnet.engine.plan import Reading
from causalnet.expr.assign import Assignment, Do
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.parser import parse
from causalnet.expr.query import Query
from causalnet.graph import Node
from causalnet.testing.lab import Lab, ModelLab, Unit
from causalnet.testing.laws.law import Case, Finding, Law, units
from causalnet.testing.laws.values import some_heads, unmixed
from causalnet.testing.strategies.queries import assignments
from causalnet.testing.strategies.worlds import readings

__all__ = ["BATCH", "CLOSED_FORM", "COVERAGE", "IDENTITIES", "PLAN", "steady"]

# -- the plan is the plain forward, and 10: worlds in one batch are worlds alone -------------------------------


@st.composite
def _read(draw: st.DrawFn, lab: ModelLab, *, most: int = 4) -> Case:
    found = draw(readings(draw(some_heads(lab)), lab.offer, most=most))
    unit = unmixed(draw(units(lab, mixed=True)), *(reading.world for reading in found))
    # Readings are kept as they are: two of one world differ in what they read.
    return Case(unit, tuple(dict.fromkeys(reading.world for reading in found)), options=(("readings", found),))


def _readings(case: Case) -> tuple[Reading, ...]:
    return dict(case.options)["readings"]


def _apart(lab: Lab, found: Mapping[Reading, np.ndarray], expected: Mapping[Reading, np.ndarray]) -> Finding:
    """Return the largest difference between two tables of readings, relative to the size of each table."""
    worst = Finding(0.0)
    for reading, table in expected.items():
        if reading.outcome.name in ("rank", "top1") and lab.tolerance > 1e-9:
            continue  # steps, which rounding may move
        size = max(float(np.nanmax(np.abs(table), initial=0.0)), 1.0)
        gap = np.abs(found[reading] - table) / size
        holes = np.isnan(found[reading]) != np.isnan(table)
        residual = float("inf") if holes.any() else float(np.nanmax(gap, initial=0.0))
        if residual > worst.residual:
            worst = Finding(residual, words=f"{reading.outcome} is off", expression=str(reading))
    return worst


def _plan(lab: ModelLab, case: Case) -> Finding:
    found = _readings(case)
    return _apart(lab, lab.read(case.unit, found), lab.read_plainly(case.unit, found))


PLAN = Law(
    "plan",
    0,
    "A planned run answers what plain full forwards answer.",
    "model",
    _read,
    _plan,
)


def _batch(lab: ModelLab, case: Case) -> Finding:
    every = _readings(case)
    together = lab.read(case.unit, every)
    alone = {reading: lab.read(case.unit, [reading])[reading] for reading in every}
    small = lab.read(case.unit, every, memory=1)
    return max(_apart(lab, together, alone), _apart(lab, small, together), key=lambda gap: gap.residual)


BATCH = Law(
    "batch",
    10,
    "Worlds in one batch, and in chunks of any size, are worlds alone.",
    "model",
    _read,
    _batch,
    weight=0.5,
)


# -- 11: identities of mediation -------------------------------------------------------------------------------


@st.composite
def _mediated(draw: st.DrawFn, lab: Lab) -> Case:
    s = draw(assignments(lab.graph, lab.offer, most=2))
    names = ("logit", "logprob", "prob", "kl", "entropy") if lab.offer.curved else ("logit", "logit_diff", "prob")
    tokens = {"logit_diff": (0, TARGET), "kl": (), "entropy": ()}
    name = draw(st.sampled_from(names))
    outcome = Outcome(name, tokens.get(name, (TARGET,)))
    text = str(parse(f"TE({', '.join(map(str, s))}; {outcome})"))
    unit = steady(lab, s, draw(units(lab, mixed=True)))
    return Case(unit, queries=(text,), options=(("s", s), ("outcome", outcome)))


def steady(lab: Lab, s: Sequence[Assignment], unit: Unit) -> Unit:
    """Return the unit without donors of another length where s could not take its values from them."""
    from causalnet.expr.compiled import compile_query

    query = parse(f"E[logit(target) | {Do(tuple(s))}]")
    return unmixed(unit, *compile_query(query, lab.graph).worlds)


def _named(lab: Lab, s: Sequence[Assignment], outcome: Outcome) -> dict[str, Query]:
    from causalnet.effects.estimands import four_way, natural_effects, path_specific
    from causalnet.expr import CE, MEAN, NORM, E, desc, do, norm
    from causalnet.expr.refs import union, without_position

    targets = [one.target for one in s]
    x = union([without_position(target) for target in targets])  # type: ignore[arg-type]
    queries = natural_effects(*s, outcome=outcome) | {"CE": CE(*s, outcome), "NORM": NORM(*s, outcome)}
    below = lab.graph.descendants([node for target in targets for node in lab.graph.resolve(_names(target))])
    if any(node.kind not in ("norm", "logits") for node in below):
        queries |= four_way(*s, held=[(desc(x) - norm) << MEAN], outcome=outcome)
    if len(s) == 1:
        edges = list(lab.graph.edges())
        out = [edge for edge in edges if edge.target.kind == "logits" and edge.source.kind != "norm"]
        queries["PSE(all)"] = path_specific(*s, edges=edges, graph=lab.graph, outcome=outcome)
        queries["PSE(X -> Y)"] = path_specific(*s, edges=out, graph=lab.graph, outcome=outcome)
    return queries | {"Y": E[outcome], "back": E[outcome | do(*s)]}


def _names(target: Any) -> str:
    return str(target).split("@")[0]


_IDENTITIES = {
    "TE = DE + CE + NORM": ("TE", ("NDE", "CE", "NORM")),
    "TE = PDE + TIE": ("TE", ("NDE", "TIE")),
    "TE = TDE + PIE": ("TE", ("TDE", "NIE")),
    "TDE = PDE + INTmed": ("TDE", ("NDE", "INTmed")),
    "TIE = PIE + INTmed": ("TIE", ("NIE", "INTmed")),
    "TE = CDE + INTref + INTmed + PIE": ("TE", ("CDE", "INTref", "INTmed", "PIE")),
    "Y(do) = Y + TE": ("back", ("Y", "TE")),
    "PSE(all) = TE": ("PSE(all)", ("TE",)),
    "PSE(X -> Y) = NDE": ("PSE(X -> Y)", ("NDE",)),
}


def _identities(lab: Lab, case: Case) -> Finding:
    from causalnet.effects.asking import unit_effects

    chosen = dict(case.options)
    found = unit_effects(lab.scm(case.unit), _named(lab, chosen["s"], chosen["outcome"]))
    size = max(1.0, *(float(np.nanmax(np.abs(table))) for table in found.values()))
    worst = Finding(0.0)
    for words, (whole, parts) in _IDENTITIES.items():
        if whole not in found or any(part not in found for part in parts):
            continue
        gap = found[whole] - sum(found[part] for part in parts)
        if isinstance(lab, ModelLab) or lab.network.modulus is None:
            residual = float(np.nanmax(np.abs(gap))) / size
        else:
            residual = float((gap % lab.network.modulus != 0).any())
        if residual > worst.residual:
            worst = Finding(residual, words=f"{words} does not hold")
    return worst


def _identity_bound(lab: Lab, case: Case) -> float:
    # Up to seven worlds are added up, each with its own rounding.
    return 8 * lab.tolerance


IDENTITIES = Law(
    "identities",
    11,
    "TE = DE + CE + NORM = PDE + TIE = TDE + PIE = CDE + INTref + INTmed + PIE, and path-specific effects of all edges "
    "and of the direct ones are TE and NDE.",
    "scm",
    _mediated,
    _identities,
    bound=_identity_bound,
)


# -- 13: closed forms ------------------------------------------------------------------------------------------

_KNOWN = {
    # By motif: TE and DE of setting x from u to v.
    "erasure": (lambda v, u: 0 * v, lambda v, u: v - u),
    "self_repair": (lambda v, u: v, lambda v, u: v - u),
    "load_bearing": (lambda v, u: v - u, lambda v, u: v - u),
    "passive_redundancy": (lambda v, u: 0 * v, lambda v, u: 0 * v),
    "partial_repair": (lambda v, u: 0.3 * (v - u), lambda v, u: v - u),
}


@st.composite
def _solved(draw: st.DrawFn, _: None) -> Case:
    motif = draw(st.sampled_from([None, *_KNOWN]) if draw(st.booleans()) else st.just(None))
    if motif is not None:
        factor = draw(st.sampled_from([0.0, 2.0, -1.0]))
        return Case(queries=(f"TE(attn[0] = scale({factor!r}))",), options=(("motif", motif), ("factor", factor)))
    layers, seed = draw(st.integers(1, 3)), draw(st.integers(0, 50))
    node = Node(draw(st.sampled_from(["attn", "mlp"])), draw(st.integers(0, layers - 1)))
    options = {
        "layers": layers,
        "seed": seed,
        "eps": draw(st.sampled_from([None, 1e-5])),
        "parallel": draw(st.booleans()),
        "node": node,
        "position": draw(st.sampled_from([3, 3, 1, 0])),
    }
    return Case(queries=(f"TE({node}@{options['position']} = zero)",), options=tuple(options.items()))


def _closed_form(_: None, case: Case) -> Finding:
    from causalnet.effects.asking import unit_effects
    from causalnet.effects.estimands import controlled_direct, natural_effects
    from causalnet.expr import CE, DE, NORM, ZERO, desc, norm
    from causalnet.expr.refs import Component
    from causalnet.testing.linear import linear_model
    from causalnet.testing.motifs import motif

    chosen = dict(case.options)
    (s,) = parse(case.queries[0]).terms[0].body.do.assignments  # type: ignore[union-attr]
    queries = natural_effects(s) | {"DE": DE(s), "CE": CE(s), "NORM": NORM(s)}
    if "motif" in chosen:
        units = (1.0, 2.0, 3.0)
        network, u = motif(chosen["motif"], units), np.array(units)
        te, de = (rule(chosen["factor"] * u, u) for rule in _KNOWN[chosen["motif"]])
        expected = [{"TE": te[n], "DE": de[n], "NDE": de[n], "CE": te[n] - de[n]} for n in range(3)]
    else:
        model = linear_model(chosen["layers"], eps=chosen["eps"], parallel=chosen["parallel"], seed=chosen["seed"])
        ids = ((1, 2, 3, 4), (5, 6, 7, 8))
        network = model.network(ids)
        node, zeros = chosen["node"], np.zeros(model.embed.shape[1])
        below = [other for other in model.graph.descendants(node) if other.contributes]
        held = {(other, position): zeros for other in below for position in range(4)}
        if below:
            queries["CDE"] = controlled_direct(s, held=[(desc(Component.of(node)) - norm) << ZERO])
        place = {(node, chosen["position"]): zeros}
        expected = [model.closed_form(one, place, held=held or None) for one in ids]
    found = unit_effects(network, queries)
    worst = Finding(0.0)
    for prompt, exact in enumerate(expected):
        for name, value in exact.items():
            if name not in found:
                continue
            gap = abs(float(found[name][prompt, 0]) - value)
            if gap > worst.residual:
                worst = Finding(
                    gap, words=f"{name} is {found[name][prompt, 0]:.6g}, and {value:.6g} in closed form: off"
                )
    return worst


CLOSED_FORM = Law(
    "closed_form",
    13,
    "On linear networks TE, NDE, NIE, TDE, TIE, INTmed, CDE, DE, CE and NORM meet their closed forms, and on the motif "
    "toys the known answers.",
    "nothing",
    _solved,
    _closed_form,
    bound=lambda lab, case: 1e-10,
)


# -- 14: intervals ---------------------------------------------------------------------------------------------

_SETS, _LEVEL = 400, 0.95
_SAMPLES = {
    "gaussian": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
}


def _simulated(_: None) -> st.SearchStrategy[Case]:
    kinds, seeds = st.sampled_from(list(_SAMPLES)), st.integers(0, 100)
    return st.builds(lambda kind, seed: Case(Unit(seed=seed), options=(("kind", kind), ("seed", seed))), kinds, seeds)


def _coverage(_: None, case: Case) -> Finding:
    from causalnet.effects.statistics import mean_interval

    chosen = dict(case.options)
    make, truth = _SAMPLES[chosen["kind"]]
    data = make(np.random.default_rng(chosen["seed"]), (100, _SETS))
    found = mean_interval(data, level=_LEVEL, draws=499, seed=chosen["seed"])
    share = float(np.mean((found.low <= truth) & (truth <= found.high)))
    return Finding(abs(share - _LEVEL), words=f"{share:.3f} of the {_LEVEL:.0%} intervals cover, off")


COVERAGE = Law(
    "coverage",
    14,
    "Intervals of means hold the truth as often as they say.",
    "nothing",
    _simulated,
    _coverage,
    # Four standard errors of the share of so many simulated samples.
    bound=lambda lab, case: 4 * (_LEVEL * (1 - _LEVEL) / _SETS) ** 0.5,
    weight=0.4,
)
