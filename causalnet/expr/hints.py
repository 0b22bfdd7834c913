"""How to mend the mistakes that newcomers make most."""

import re

__all__ = ["hint"]

_ARGUMENTS = dict.fromkeys(("scale", "noise"), "give a number: scale(0.5), noise(3.0)")
_ARGUMENTS |= dict.fromkeys(("patch", "value", "add", "project_out"), 'name the data: patch("corrupt"), add("name", 2)')
_ARGUMENTS |= dict.fromkeys(
    ("logit", "logprob", "prob", "rank", "precap_logit", "logit_diff"), 'say which token: logit(target), logit(" Mary")'
)
_ARGUMENTS |= dict.fromkeys(("desc", "anc", "between"), "say of what: desc(attn[5]), between(attn[3], logits)")
_ARGUMENTS |= {"projection": 'name the vector: projection("truth")'}
_ARGUMENTS |= {"direct": "say of which nodes: direct(attn[20])", "do": "say what is set: do(attn[5] = zero)"}
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
    if word == "[" and re.search(r"\b(embed|norm|logits)$", before):
        return f"there is only one {re.findall(r'[a-z]+$', before)[0]}; leave the brackets out"
    if word == ":" and expected == {"RSQB", "COMMA"}:
        return "slices have no step: attn[3:7]"
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
    if expected == {"_DO", "LPAR"}:
        return "a world is written under do(attn[5] = zero)"
    if "CONSTANT" in expected and re.match(r"[0-9.+-]", word):
        return 'the zero vector is written zero, a vector of your own value("name")'
    if "COMPARE" in expected:
        return 'compare the feature: prompt.relation == "P103"'
    if expected == {"LPAR"}:
        return _ARGUMENTS.get((re.findall(r"\w+$", before) or [""])[0], "")
    if word == ")" and expected == {"COMMA"}:
        return 'two are needed: logit_diff(" Mary", " John"), between(attn[3], logits)'
    if word == "|" and expected == {"RSQB", "COMMA"}:
        return "write every assignment in one do(…), and a condition after a comma"
    if word and expected == {"_PROMPT", "NOT", "LPAR"}:
        return "every assignment stands inside one do(…), before the condition"
    if "SCALING" in expected and re.match(r"[A-Za-z(]", word):
        return "join queries with + or -, and multiply by a number with *"
    return ""
