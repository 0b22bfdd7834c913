"""How to mend the mistakes that newcomers make most."""

import re

__all__ = ["hint"]

_CLOSERS = {"RPAR": ")", "RSQB": "]"}


def hint(text: str, start: int, word: str, expected: set[str]) -> str:
    """Return what may mend a text that cannot be read, or nothing.

    Parameters
    ----------
    text
        The text.
    start
        Where it goes wrong.
    word
        What stands there; empty at the end.
    expected
        The names of the terminals that may stand there.
    """
    before = text[:start].rstrip()
    for found in (
        _python_form(before, word),
        _brackets(text, before, word, expected),
        _quotes(word, expected),
        _signs(before, word, expected),
    ):
        if found:
            return found
    return ""


def _python_form(before: str, word: str) -> str:
    """Say how the text form writes what the Python form writes."""
    if word == "<<":
        return "in text '=' is written where Python writes '<<'"
    if word == ">>":
        return "in text '->' is written where Python writes '>>'"
    if re.search(r"@\s*pos$", before):
        return "in text a position is written @0 or @3:6, without pos"
    if re.search(r"@\s*span$", before):
        return "in text a span is written by its name alone, @subject"
    if re.search(r"\)\s*\.?$", before) and word in (".", "along"):
        return "in text a path follows a space: attn[5] = zero along attn[5] -> logits"
    return ""


def _brackets(text: str, before: str, word: str, expected: set[str]) -> str:
    closers = [mark for name, mark in _CLOSERS.items() if name in expected]
    if not word:
        return f"close the bracket with {closers[0]}" if closers else ""
    if word == "(" and re.search(r"\b(attn|mlp|resid|head)$", before):
        return "layers and heads stand in square brackets: attn[5].head[3]"
    if word == "(" and re.search(r"\bE$", before):
        return "E takes square brackets: E[logit(target) | do(attn[5] = zero)]"
    if word == "[" and re.search(r"\b[A-Z]+$", before):
        return "named estimands take round brackets: TE(attn[5] = zero)"
    if "_E" in expected and not before:
        if re.match(r"\s*do\b", text):
            return "say what is read: E[logit(target) | do(…)]"
        if re.match(r"\s*(attn|mlp|embed|resid|norm|desc|anc)\b", text):
            return "say what is asked: TE(attn[5] = zero), or E[logit(target) | do(…)]"
        return "write E[logit(target) | do(attn[5] = zero)], or TE(attn[5] = zero)"
    return ""


def _quotes(word: str, expected: set[str]) -> str:
    if word in ('"', "'"):
        return "the text in quotes is not closed"
    if expected == {"STRING"} and word.isidentifier():
        return f'put the name in quotes: "{word}"'
    if "_TARGET" in expected and word.isidentifier():
        return f'put a token in quotes, with its space if it has one: " {word}"'
    if "TRUTH" in expected and word.isidentifier():
        return f'put a text in quotes: "{word}"'
    return ""


def _signs(before: str, word: str, expected: set[str]) -> str:
    if word == "==" or (word == "=" and before.endswith("=")):
        return "'=' sets a value inside do(…); '==' compares a feature of the prompts"
    if word == "=" and "COMPARE" in expected:
        return "'==' compares, '=' sets a value inside do(…)"
    if "CONSTANT" in expected and re.match(r"[0-9.+-]", word):
        return 'the zero vector is written zero, a vector of your own value("name")'
    if word == "," and "COMPARE" in expected:
        return 'compare the feature: prompt.relation == "P103"'
    if word == "|" and expected == {"LPAR"}:
        return "say which token: logit(target), or logit(\" Mary\")"
    if "SCALING" in expected and re.match(r"[A-Za-z(]", word):
        return "join queries with + or -, and multiply by a number with *"
    return ""
