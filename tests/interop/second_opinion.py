"""Ask DoWhy for a second opinion on stories260K, and print the tables of ``docs/results/second_opinion.md``.

Run ``python tests/interop/second_opinion.py MODEL``; MODEL is the folder of the checkpoint (Karpathy's tinyllamas in
the form of Hugging Face).  It takes a minute or two of one processor; ``--passes`` and ``--simulations`` make it
shorter.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Iterable, Iterator

import causalnet as cn
from causalnet.effects import FewPromptsWarning
from causalnet.errors import GraphError
from causalnet.interop.dowhy import RandomisedAblation, dithered, falsify_circuit, to_gcm

STARTS = ("Once upon a time there was a little", "One day a big", "Lily saw a", "The dog ran to the")
TEXTS = [f"{start} {end}" for start in STARTS for end in ("girl", "cat and a", "red ball. She")]
QUESTIONS = (
    "TE(attn[1]@last = zero)",
    "DE(mlp[2]@last = zero)",
    "CE(mlp[0]@last = zero)",
    "NORM(mlp[4]@last = zero)",
    "E[logprob(target) | do(attn[2:4]@last = zero, mlp[3] = natural)] - E[logprob(target)]",
)
NODES = ["attn[0]", "mlp[0]", "attn[1]", "mlp[1]", "attn[2]", "mlp[3]"]
TRUE = [
    "attn[0] -> mlp[0]", "mlp[0] -> attn[1]", "mlp[0] -> mlp[1]", "attn[1] -> attn[2]", "mlp[1] -> mlp[3]",
]  # fmt: skip
WRONG = [
    "mlp[0] -> mlp[3]", "attn[0] -> attn[2]", "attn[0] -> mlp[1]", "mlp[1] -> attn[2]", "attn[1] -> mlp[3]",
]  # fmt: skip
DENSE = [f"{a} -> {b}" for a, b in itertools.combinations(NODES, 2)]


def table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    names = list(names)
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def twin(model: cn.CausalModel) -> Iterator[str]:
    """Yield by how much DoWhy's own propagation and the engine differ, unit by unit."""
    second = to_gcm(model, TEXTS)
    rows = []
    for question in QUESTIONS:
        ours = model.evaluate(question, TEXTS).units_table
        gaps = [abs(second.evaluate(question, way=way) - ours).max() for way in ("interventional", "counterfactual")]
        shown = question.replace("|", r"\|")
        rows.append((f"`{shown}`", f"{ours.mean():.3f}", *(f"{gap:.0e}" for gap in gaps)))
    yield from table(("question", "mean", "interventional, off by", "counterfactual, off by"), rows)


def randomised(model: cn.CausalModel, passes: int, simulations: int) -> Iterator[str]:
    """Yield what DoWhy estimates from random ablations, beside the engine's exact effects."""
    found = RandomisedAblation.run(model, TEXTS, passes=passes).table(simulations=simulations)
    methods, refuters = ("regression", "matching", "weighting"), ("placebo", "random_common_cause", "dummy_outcome")
    rows = []
    for name, row in found.iterrows():
        interval = f"{row.regression:.3f} ({row.low:.3f} to {row.high:.3f})"
        others = [f"{row[method]:.3f}" for method in methods[1:]]
        refuted = [f"{row[refuter]:.3f} (p = {row[f'{refuter}_p']:.2f})" for refuter in refuters]
        rows.append((f"`{name}`", f"{row.alone:.3f}", f"{row.exact:.3f}", interval, *others, *refuted))
    names = ("node", "alone", "exact", *methods, "placebo", "random common cause", "dummy outcome")
    yield from table(names, rows)
    inside = int(((found.low < found.exact) & (found.exact < found.high)).sum())
    worst = max(float((found[method] - found.exact).abs().max()) for method in methods)
    yield ""
    yield f"{inside} of {len(found)} exact effects lie in the 95 % interval; every estimate is within {worst:.2f}."


def falsified(model: cn.CausalModel) -> Iterator[str]:
    """Yield what the data say about a true circuit, wrong ones, and what cannot be tested."""
    alive = dithered(model, TEXTS, NODES, only=TRUE, rows=200)
    whole = dithered(model, TEXTS, NODES, rows=200)
    bare = dithered(model, TEXTS, NODES, only=TRUE, dither=0.0, rows=200)
    asked = [
        ("true", TRUE, "only its edges alive", alive, "linear"),
        ("true", TRUE, "only its edges alive", alive, "kernel"),
        ("wrong", WRONG, "only the true one's edges alive", alive, "linear"),
        ("true", TRUE, "every edge of the model alive", whole, "linear"),
        ("true", TRUE, "only its edges alive, no noise", bare, "linear"),
    ]
    rows = []
    for name, circuit, edges, data, test in asked:
        one = falsify_circuit(circuit, data, test=test, permutations=100 if test == "linear" else 30)
        said = "**falsified**" if one.falsified else "not falsified"
        rows.append((name, edges, test, one.tests, len(one.violations), f"{one.p_value:.2f}", said))
    yield from table(("circuit", "data", "test", "independences", "violated", "p of exchanges", "verdict"), rows)
    try:
        falsify_circuit(DENSE, alive)
    except GraphError as error:
        yield ""
        yield f"The dense graph is refused: {str(error).split(chr(10))[0]}."


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--passes", type=int, default=6000)
    parser.add_argument("--simulations", type=int, default=20)
    given = parser.parse_args()
    warnings.simplefilter("ignore", FewPromptsWarning)
    model = cn.compile(given.model)
    parts = {
        "An independent twin": lambda: twin(model),
        "A randomised ablation": lambda: randomised(model, given.passes, given.simulations),
        "Circuits to falsify": lambda: falsified(model),
    }
    for title, lines in parts.items():
        started = time.perf_counter()
        print(f"## {title}\n", *lines(), "", sep="\n")
        print(f"{title}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
