"""The parser survives anything, in time that grows with the text."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import causalnet.expr
from causalnet.errors import ExpressionError
from causalnet.expr import At, E, Query, attn, desc, do, logit, parse, prompt, target, under, zero
from causalnet.expr.operators import MAX_DEPTH
from causalnet.expr.parser import MAX_BRACKETS
from causalnet.expr.reader import unquote

fuzz = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

MARKS = "E [ ] ( ) | , ; @ = == -> - + * / & : . < << >> >= ! $ ' \" \\"
NOUNS = "do attn mlp resid embed norm logits head bias desc anc between along under target last pos span"
VALUES = "zero mean resample natural patch value scale noise add project_out TE DE IE CE NORM NDE TIE"
OUTCOMES = "logit logit_diff logprob prob rank entropy kl precap_logit direct sigma top1 prompt and or not true"
OTHERS = "0 3 -1 2.5 1e9 1e999 .5 subject x 'n' ü \x00 ∞"
WHOLE = ['" Mary"', "\n", "\ud800", "E[logit(target) | do(", "attn[5]@last = resample", ")]", "TE("]
WORDS = [*f"{MARKS} {NOUNS} {VALUES} {OUTCOMES} {OTHERS}".split(" "), *WHOLE]


def only_its_own_error(text):
    try:
        query = parse(text)
    except ExpressionError as error:
        assert str(error)
        return
    assert isinstance(query, Query)
    assert parse(str(query)) == query


@fuzz
@given(st.text(st.characters(), max_size=60))
def test_arbitrary_text(text):
    only_its_own_error(text)


@fuzz
@given(st.lists(st.sampled_from(WORDS), max_size=25), st.sampled_from(["", " "]))
def test_arbitrary_words_of_the_language(words, gap):
    only_its_own_error(gap.join(words))


@fuzz
@given(st.data())
def test_a_damaged_sentence(data):
    text = (
        'E[direct(attn[9].head[6,9] | mlp[:3])@-2 | do((attn[5] - norm)@"a b" = patch("c") along a -> b), prompt.x<3]/2'
    )
    cut = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 5))
    put = data.draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=3)))
    only_its_own_error(text[:cut] + put + text[cut + gone :])


@pytest.mark.parametrize("given", [None, 3, b"TE(attn[5] = zero)", ["TE"]])
def test_what_is_no_text(given):
    with pytest.raises(ExpressionError, match="is a text"):
        parse(given)


DEEP = {
    "brackets": lambda n: "(" * n + "E[kl]" + ")" * n,
    "open brackets": lambda n: "(" * n,
    "sets": lambda n: f"TE({'desc(' * n}attn[1]{')' * n} = natural)",
    "nested unions": lambda n: f"TE({'(mlp[0] - (attn[1] | ' * n}attn[1]{'))' * n} = natural)",
    "worlds": lambda n: f"E[kl | do({'attn[1] = under do(' * n}attn[1] = zero{')' * n})]",
    "negations": lambda n: f"E[kl | {'not ' * n}prompt.a == 1]",
    "bracketed negations": lambda n: f"E[kl | {'not (' * n}prompt.a == 1{')' * n}]",
    "positions": lambda n: f"TE(attn[1]{'@last' * n} = zero)",
}


@pytest.mark.parametrize("depth", [MAX_BRACKETS + 1, 5_000, 100_000])
@pytest.mark.parametrize("shape", DEEP)
def test_deep_nesting_is_an_error_and_no_overflow(shape, depth):
    with pytest.raises(ExpressionError):
        parse(DEEP[shape](depth))


FLAT = {
    "signs": lambda n: "-" * (2 * n) + "E[kl]",
    "sum": lambda n: " + ".join(["E[kl]"] * n),
    "union": lambda n: f"TE(({' | '.join(['attn[1]'] * n)}) = zero)",
    "difference": lambda n: f"TE({' - '.join(['attn[1]'] * n)} = zero)",
    "path": lambda n: f"TE(attn[1] = zero along {' -> '.join(['attn[1]'] * n)})",
    "assignments": lambda n: f"TE({', '.join(['attn[1] = zero'] * n)})",
    "condition": lambda n: f"E[kl | {' and '.join(['prompt.a == 1'] * n)}]",
    "index": lambda n: f"TE(attn[{','.join(['1'] * n)}] = zero)",
    "string": lambda n: f'E[logit("{"a" * n}")]',
    "space": lambda n: f"E[kl{' ' * n}]",
    "factors": lambda n: "1*" * n + "E[kl]",
}


@pytest.mark.parametrize("shape", FLAT)
def test_long_flat_texts_are_read(shape):
    query = parse(FLAT[shape](3_000))
    assert parse(str(query)) == query
    assert hash(query) == hash(pickle.loads(pickle.dumps(query)))


def calls_of(text):
    """Count the Python calls that reading a text takes: its running time, without a clock."""
    count = 0

    def step(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    parse("E[kl]")  # the grammar is read once
    sys.setprofile(step)
    try:
        parse(text)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("shape", FLAT)
def test_steps_grow_with_the_text_and_no_faster(shape):
    texts = [FLAT[shape](n) for n in (200, 400, 800)]
    one, two, four = map(calls_of, texts)
    assert two - one <= 100 * (len(texts[1]) - len(texts[0]))
    assert four - two <= 2.1 * (two - one) + 50


def test_the_python_form_is_bounded_too():
    def sets():
        reference = attn[1]
        for _ in range(MAX_DEPTH + 1):
            reference = desc(reference)

    def worlds():
        world = do(attn[1] << zero)
        for _ in range(MAX_DEPTH):
            world = do(attn[1] << under(world))

    for build in (sets, worlds):
        with pytest.raises(ExpressionError, match="nested more than"):
            build()


def test_strings():
    assert unquote(r'" a\n\t\"\\\u00e9"') == ' a\n\t"\\é'
    assert unquote(r'"\ud83d\ude00"') == "😀"
    assert parse("E[logit(' it\\'s')]") == E[logit(" it's")]
    for text in (r'"\q"', r'"\ud800"', r'"\u12"'):
        with pytest.raises(ExpressionError):
            parse(f"E[logit({text})]")


def test_words_of_the_language_may_name_data():
    query = parse('TE(attn[5]@zero = patch("last"))')
    assert str(query) == 'TE(attn[5]@zero = patch("last"))'
    assert parse("TE(attn[5]@-1 = zero)") == parse("TE(attn[5]@last = zero)")
    assert parse('TE(attn[5]@"last" = zero)') != parse("TE(attn[5]@last = zero)")
    assert parse("E[kl | prompt.zero == 1]") == E[kl_given(prompt["zero"] == 1)]


def kl_given(condition):
    from causalnet.expr import kl

    return kl | condition


def test_text_is_remembered_but_is_no_part_of_the_query():
    spaced, tight = parse("TE( attn[5]@last  = zero )"), parse("TE(attn[5]@last=zero)")
    assert spaced == tight
    assert spaced.text != tight.text
    assert pickle.loads(pickle.dumps(spaced)).text == spaced.text
    assert (-spaced).text is None


def test_no_eval_anywhere():
    for file in Path(causalnet.expr.__file__).parent.glob("*.py"):
        called = [n.func for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not {f.id for f in called if isinstance(f, ast.Name)} & {"eval", "exec", "compile", "__import__"}, file


def test_importing_the_language_loads_no_torch_and_no_parser():
    code = (
        "import sys, causalnet.expr; print([m for m in ('torch', 'transformers', 'dowhy', 'lark') if m in sys.modules])"
    )
    root = Path(causalnet.expr.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_positions_print_as_they_are_parsed():
    for text in ("@0", "@-2", "@last", "@3:6", "@-3:", "@:4", "@3:-1", "@subject"):
        query = parse(f"TE(attn[5]{text} = zero)")
        assert str(query) == f"TE(attn[5]{text} = zero)"
    with pytest.raises(ExpressionError, match="already has a position"):
        parse("E[logit(target)@last@0]")
    assert repr(parse("-E[kl]")) == "parse('-E[kl]')"
    assert parse("E[logit(target)@last]") == E[logit(target) @ At(-1)] == E[logit(target)]
