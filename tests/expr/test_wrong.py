"""Wrong sentences: each is refused before anything runs, in words that say how to mend it."""

from pathlib import Path

import pytest

from causalnet import errors
from causalnet.errors import CausalnetError, ExpressionError
from causalnet.expr import (
    TE,
    E,
    Query,
    attn,
    compile_query,
    desc,
    direct,
    do,
    embed,
    kl,
    last,
    logit,
    logits,
    mean,
    mlp,
    natural,
    noise,
    norm,
    parse,
    pos,
    prompt,
    resample,
    resid,
    scale,
    span,
    target,
    under,
    zero,
)
from causalnet.graph import Block, CausalGraph

GRAPHS = {
    "SEQUENTIAL": CausalGraph.from_blocks([Block(layer, heads=2) for layer in range(8)]),
    "PARALLEL": CausalGraph.from_blocks([Block(layer, heads=2, parallel=True) for layer in range(8)]),
    "NORMED": CausalGraph.from_blocks([Block(layer, heads=2, heads_sum=False) for layer in range(8)]),
    "UNEVEN": CausalGraph.from_blocks([Block(0), Block(1, attn=False), Block(2, mlp=False)]),
}
NAMES = {"spans": ["subject"], "patches": ["corrupt"], "values": ["v", "truth"], "features": ["relation", "length"]}


def table():
    """Read wrong_sentences.txt: (graph or None, text, pointer, error)."""
    lines = Path(__file__).with_name("wrong_sentences.txt").read_text(encoding="utf-8").splitlines()
    rows, block = [], []
    for line in [*lines, ""]:
        if line.strip() and not line.startswith("#"):
            block.append(line)
        elif block:
            graph = block.pop(0)[len("on ") :] if block[0].startswith("on ") else None
            text, pointer, error = block
            rows.append((graph, text, pointer, error))
            block = []
    return rows


WRONG = table()


def read(graph, text):
    query = parse(text)
    return query if graph is None else compile_query(query, GRAPHS[graph], **NAMES)


@pytest.mark.parametrize(("graph", "text", "pointer", "error"), WRONG, ids=[text for _, text, *_ in WRONG])
def test_wrong_sentence(graph, text, pointer, error):
    kind, message = error.split(": ", 1)
    with pytest.raises(CausalnetError) as caught:
        read(graph, text)
    assert type(caught.value) is getattr(errors, kind)
    assert str(caught.value) == f"{message}\n  {text}\n  {pointer}"


def test_there_are_many():
    assert len(WRONG) >= 60
    assert sum(graph is None for graph, *_ in WRONG) >= 30


@pytest.mark.parametrize(
    ("graph", "text", "error"), [(g, t, e) for g, t, _, e in WRONG if g], ids=lambda one: str(one)[:40]
)
def test_the_same_tree_from_python_is_refused_in_the_same_words(graph, text, error):
    with pytest.raises(CausalnetError) as caught:
        compile_query(Query(parse(text).terms), GRAPHS[graph], **NAMES)
    assert f"{type(caught.value).__name__}: {caught.value}" == error


PYTHON = {
    "TE(attn@last = zero)": lambda: attn @ last << zero,
    "TE(attn[5] | mlp[6] = zero)": lambda: attn[5] | mlp[6] << zero,
    "TE(attn[5] & mlp[:] = zero)": lambda: attn[5] & mlp[:] << zero,
    "TE(attn[5] = zero | mlp[6] = zero)": lambda: (attn[5] << zero) | (mlp[6] << zero),
    "TE(attn[5] -> mlp[7] | mlp[8] = zero)": lambda: attn[5] >> mlp[7] | mlp[8] << zero,
    "TE(attn[5] = zero along attn[5] -> mlp[7] | mlp[8])": lambda: (attn[5] << zero).along(attn[5] >> mlp[7] | mlp[8]),
    "TE(attn[5] -> mlp[7] -> logits = zero)": lambda: attn[5] >> mlp[7] >> logits << zero,
    "TE(attn[5] = zero along logits)": lambda: (attn[5] << zero).along(logits),
    "TE(attn[5] along attn[5] -> logits)": lambda: attn[5].along(attn[5] >> logits),
    "TE(attn[5]@last = zero along attn[5]@last -> logits)": lambda: (attn[5] @ last << zero).along(
        attn[5] @ last >> logits
    ),
    "TE(attn[5] -> mlp[7]@last = zero)": lambda: attn[5] >> mlp[7] @ last << zero,
    "TE(desc(attn[5]@last) = natural)": lambda: desc(attn[5] @ last) << natural,
    "TE((attn[5]@last | mlp[6])@0 = zero)": lambda: (attn[5] @ last | mlp[6]) @ pos[0],
    "TE(attn[5]@: = zero)": lambda: attn[5] @ pos[:] << zero,
    "TE(attn[5]@6:3 = zero)": lambda: attn[5] @ pos[6:3] << zero,
    "TE(mlp[5].head[3] = zero)": lambda: mlp[5].head[3] << zero,
    "TE(norm = zero)": lambda: norm << zero,
    "TE(logits = zero)": lambda: logits << zero,
    "TE(attn[5])": lambda: TE(attn[5]),
    "TE()": lambda: TE(),
    "E[kl | do()]": lambda: E[kl | do()],
    "E[kl | do(attn[5])]": lambda: E[kl | do(attn[5])],
    "E[logit(target)@3:6]": lambda: E[logit(target) @ pos[3:6]],
    "E[kl] * E[kl]": lambda: E[kl] * E[kl],
    "E[kl] + 3": lambda: E[kl] + 3,
    "0*TE(attn[5] = zero)": lambda: 0 * TE(attn[5] << zero),
    "TE(attn[5] = noise(-1))": lambda: TE(attn[5] << noise(-1)),
    "E[direct(attn[5]@last)]": lambda: E[direct(attn[5] @ last)],
}


@pytest.mark.parametrize("text", PYTHON)
def test_the_python_form_refuses_in_the_same_words(text):
    error = next(error for graph, one, _, error in WRONG if one == text and graph is None)
    with pytest.raises(ExpressionError) as caught:
        PYTHON[text]()
    assert f"ExpressionError: {caught.value}" == error


ONLY_PYTHON = {
    "attn has no layer": (lambda: attn << zero, "attn needs a layer"),
    "attn has no layer, in a set": (lambda: mlp[3] | attn, "attn needs a layer"),
    "attn has no layer, in a path": (lambda: embed >> attn, "attn needs a layer"),
    "attn has no layer, before its heads": (lambda: attn.head[3], "attn needs a layer"),
    "attn has no layer, in desc": (lambda: desc(attn), "attn needs a layer"),
    "attn has no layer, in direct": (lambda: direct(attn), "attn needs a layer"),
    "a span in quotes": (lambda: attn[5] @ "subject", r"write @ span\('subject'\)"),
    "last in quotes": (lambda: attn[5] @ "last", "write @ last"),
    "a bare number": (lambda: attn[5] @ 3, r"write @ pos\[3\]"),
    "a step": (lambda: attn[5] @ pos[1:9:2], "no step"),
    "half a position": (lambda: attn[5] @ pos[1.5], "whole number"),
    "half a layer": (lambda: attn[1.5], "whole number"),
    "a step of layers": (lambda: attn[1:9:2], "no step"),
    "zero as a number": (lambda: attn[5] << 0, "write zero"),
    "a vector": (lambda: attn[5] << [1.0, 2.0], "a list is no value"),
    "a name": (lambda: attn[5] << "corrupt", r'write patch\("corrupt"\)'),
    "a node as value": (lambda: attn[5] << attn[3], "under do"),
    "position after the value": (lambda: (attn[5] << zero) @ last, r"attn\[5\]@last = zero"),
    "position after the path": (lambda: (attn[5] >> mlp[5]) @ last, "takes no position"),
    "a world that is no do": (lambda: under(zero), "under takes a do"),
    "do in an estimand": (lambda: TE(do(attn[5] << zero)), r"write TE\(attn\[5\] = zero\)"),
    "outcome out of place": (lambda: TE(kl, attn[5] << zero), "out of place"),
    "no outcome": (lambda: E[do(attn[5] << zero)], "begins with an outcome"),
    "an assignment for a do": (lambda: E[kl | (attn[5] << zero)], r"write do\(attn\[5\] = zero\)"),
    "condition without brackets": (lambda: E[kl | prompt.a == 1], "put the condition in brackets"),
    "two conditions": (lambda: E[kl, prompt.a == 1, prompt.b == 2], "at most one condition"),
    "a chained comparison": (lambda: E[kl, 1 < prompt.a < 3], "neither true nor false|is not compared"),
    "and for &": (lambda: E[kl, (prompt.a == 1) and (prompt.b == 2)], "join conditions with &"),
    "a bare feature": (lambda: E[kl, prompt.a], "is no condition"),
    "a feature compared with a list": (lambda: prompt.a == [1], "a text or a finite number"),
    "a feature compared with nan": (lambda: prompt.a == float("nan"), "finite number"),
    "an outcome added": (lambda: E[kl] - kl, r"write E\[kl\]"),
    "a quotient": (lambda: 1 / E[kl], "linear combination"),
    "a quotient by zero": (lambda: E[kl] / 0, "divided by 0"),
    "infinitely much": (lambda: float("inf") * E[kl], "not a finite number"),
    "or for |": (lambda: attn[5] or mlp[5], r"join sets with \|"),
    "a set as a list": (lambda: list(attn[5:7]), "not a list"),
    "a query as a truth": (lambda: bool(E[kl]), "neither true nor false"),
    "two do": (lambda: kl | do(attn[5] << zero) | do(mlp[5] << zero), "one do"),
    "position after the bar": (lambda: (kl | do(attn[5] << zero)) @ last, "stands before"),
    "two positions": (lambda: logit(target) @ pos[1] @ pos[2], "already has a position"),
    "no token": (lambda: logit(None), "reads a token"),
    "an empty token": (lambda: logit(""), "an empty string"),
    "an empty span": (lambda: span(""), "not empty"),
    "brackets after kl": (lambda: kl(), "takes nothing in brackets"),
    "scale of a word": (lambda: scale("half"), "a number is needed"),
    "resid without layer": (lambda: resid @ last << resample, "resid needs a layer"),
    "mean of two": (lambda: attn[5] << mean << zero, "already sets a value"),
}


@pytest.mark.parametrize("name", ONLY_PYTHON)
def test_wrong_python(name):
    build, words = ONLY_PYTHON[name]
    with pytest.raises(ExpressionError, match=words):
        build()


def test_the_pointer_follows_lines_and_cuts_long_ones():
    with pytest.raises(ExpressionError) as caught:
        parse("E[kl |\n  do(attn[5] = zro)]")
    assert str(caught.value).splitlines()[1:] == ["    do(attn[5] = zro)]", "                 ^~~"]
    with pytest.raises(ExpressionError) as caught:
        parse("TE(" + "attn[5] = zero, " * 20 + "attn[6] = zro)")
    shown, pointer = str(caught.value).splitlines()[1:]
    assert shown.startswith("  …")
    assert shown[pointer.index("^") : pointer.index("^") + len(pointer.strip())] == "zro"


def test_names_are_checked_only_when_they_are_known():
    query = parse('E[kl@object | do(attn[5]@subject = patch("x")), prompt.y == 1] + E[kl | do(embed = value("z"))]')
    assert len(compile_query(query, GRAPHS["SEQUENTIAL"]).worlds) == 3
    for known in ({"spans": []}, {"patches": []}, {"values": []}, {"features": []}):
        with pytest.raises(errors.UnknownNameError):
            compile_query(query, GRAPHS["SEQUENTIAL"], **known)


def test_what_is_no_query():
    with pytest.raises(ExpressionError, match="is no query"):
        compile_query(kl | do(attn[5] << zero), GRAPHS["SEQUENTIAL"])  # pyright: ignore
