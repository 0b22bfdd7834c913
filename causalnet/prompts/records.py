"""From a record (one line of a file, one row of a table) to a prompt, and back."""

from collections.abc import Mapping
from typing import Any

from causalnet.errors import PromptError, explain, nearest
from causalnet.prompts.prompt import Prompt

__all__ = ["prompt_from_record", "record_from_prompt"]

TEXT_FIELDS = ("prompt", "text", "clean", "clean_prefix")
ANSWER_FIELDS = ("answer", "attribute", "target_true", "clean_answer")
PAIR_FIELDS = {
    "corrupt": "corrupt",
    "corrupted": "corrupt",
    "patch_prefix": "corrupt",
    "corrupted_hard": "corrupted_hard",
}
PAIR_ANSWER_FIELDS = {"corrupt_answer": "corrupt", "corrupted_answer": "corrupt", "patch_answer": "corrupt"}
PAIR_SUBJECT_FIELDS = {"corrupt_subject": "corrupt", "corrupted_subject": "corrupt"}
NESTED_FIELDS = ("spans", "features", "pairs")


def prompt_from_record(record: Any, origin: str, unread: dict[str, int]) -> Prompt:
    """Make a prompt of a record.

    Parameters
    ----------
    record
        A text, or a mapping with the fields that `causalnet.prompts.Prompts.from_records` lists.
    origin
        Where it was read, for messages.
    unread
        Counts, by field, the values that were left out because they are not scalars; added to.

    Raises
    ------
    PromptError
        If it is no record, has no text, or a field has the wrong type.
    """
    if isinstance(record, str):
        return Prompt(record, origin=origin)
    if not isinstance(record, Mapping):
        mend = 'write each prompt as an object: {"prompt": "…"}'
        raise PromptError(explain(f"a record must be an object, got {_json_name(record)}", where=origin, mend=mend))
    if "requested_rewrite" in record:
        record = _from_counterfact(record, origin)
    return _Reader(record, origin, unread).prompt()


def record_from_prompt(prompt: Prompt) -> dict[str, Any]:
    """Write a prompt as a mapping of JSON values, which `prompt_from_record` reads back."""
    record: dict[str, Any] = {"prompt": prompt.text}
    if prompt.answer is not None:
        record["answer"] = prompt.answer
    if prompt.join is not None:
        record["join"] = prompt.join
    if prompt.spans:
        record["spans"] = {name: list(span) if isinstance(span, tuple) else span for name, span in prompt.spans.items()}
    if prompt.features:
        record["features"] = dict(prompt.features)
    if prompt.pairs:
        record["pairs"] = {name: record_from_prompt(other) for name, other in prompt.pairs.items()}
    return record


class _Reader:
    """Reads the fields of one record, each once; what is left over becomes features."""

    def __init__(self, record: Mapping[str, Any], origin: str, unread: dict[str, int]) -> None:
        self.left = {str(key): value for key, value in record.items()}
        self.origin = origin
        self.unread = unread

    def prompt(self) -> Prompt:
        text = self._text()
        answer = self._answer()
        join = self.left.pop("join", None)
        nested = {field: self._nested(field) for field in NESTED_FIELDS}
        spans, pairs = nested["spans"], nested["pairs"]
        subject = self.left.pop("subject", None)
        if subject is not None:
            if not isinstance(subject, str):
                raise self._fail(f"'subject' must be a text, got {_json_name(subject)}")
            self._add(spans, "subject", _located(subject, text, self.left.get("template")))
        self._pairs(pairs)
        features = self._features(nested["features"])
        return Prompt(text, answer, spans=spans, features=features, pairs=pairs, join=join, origin=self.origin)

    def _fail(self, what: str, **more: Any) -> PromptError:
        return PromptError(explain(what, where=self.origin, **more))

    def _text(self) -> str:
        for field in TEXT_FIELDS:
            if field in self.left:
                value = self.left.pop(field)
                if value is None:
                    raise self._fail(
                        f"empty prompt: there is nothing in {field!r}", mend="leave it out or write a text"
                    )
                if not isinstance(value, str):
                    raise self._fail(f"{field!r} must be a text, got {_json_name(value)}", mend='write {"prompt": "…"}')
                return value
        has = ", ".join(self.left) or "no field at all"
        near = next((field for field in self.left if nearest(field, TEXT_FIELDS)), "")
        what = f"there is no field 'prompt' (it has {has})"
        raise self._fail(what, legal=TEXT_FIELDS, got=near, mend="name it 'prompt'")

    def _answer(self) -> str | None:
        for field in ANSWER_FIELDS:
            if self.left.get(field) is not None:
                value = self.left.pop(field)
                if not isinstance(value, str):
                    mend = f"write it as a text: {str(value)!r}"
                    raise self._fail(f"{field!r} must be a text, got {_json_name(value)}", mend=mend)
                return value
            self.left.pop(field, None)
        return None

    def _nested(self, field: str) -> dict[str, Any]:
        value = self.left.pop(field, None)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._fail(f"{field!r} must be an object of names and values, got {_json_name(value)}")
        if field != "pairs":
            return dict(value)
        return {
            str(name): prompt_from_record(other, f"{self.origin}, pair {name!r}", self.unread)
            for name, other in value.items()
        }

    def _pairs(self, pairs: dict[str, Any]) -> None:
        """Add the pairs that have columns of their own, with their answers and subjects."""
        made: dict[str, dict[str, Any]] = {}
        for fields, key in ((PAIR_FIELDS, "prompt"), (PAIR_ANSWER_FIELDS, "answer"), (PAIR_SUBJECT_FIELDS, "subject")):
            for field, name in fields.items():
                if self.left.get(field) is not None and (key == "prompt" or name in made):
                    self._add(made.setdefault(name, {}), key, self.left.pop(field))
        for name, record in made.items():
            self._add(pairs, name, prompt_from_record(record, f"{self.origin}, pair {name!r}", self.unread))

    def _features(self, features: dict[str, Any]) -> dict[str, Any]:
        if "relation_id" in self.left and "relation" not in self.left and "relation" not in features:
            features["relation"] = self.left["relation_id"]
        for name, value in self.left.items():
            scalar = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
            if isinstance(scalar, (str, int, float, bool, type(None))):
                self._add(features, name, scalar)
            else:
                self.unread[name] = self.unread.get(name, 0) + 1
        return features

    def _add(self, there: dict[str, Any], name: str, value: Any) -> None:
        if name in there and there[name] != value:
            raise self._fail(f"{name!r} is given twice, as {there[name]!s} and as {value!s}", mend="keep one of them")
        there[name] = value


def _located(subject: str, text: str, template: Any) -> str | tuple[int, int]:
    """Give the subject's words, or its range where the words occur twice and the template tells which are meant."""
    if text.count(subject) > 1 and isinstance(template, str) and template.count("{}") == 1:
        start = template.index("{}")
        if text.startswith(template[:start] + subject):
            return (start, start + len(subject))
    return subject


def _from_counterfact(record: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Flatten a record of CounterFact's own file (Meng et al. 2022)."""
    rewrite = record["requested_rewrite"]
    try:
        template, subject = rewrite["prompt"], rewrite["subject"]
        true, new = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
        filled = template.replace("{}", subject, 1)
    except (KeyError, TypeError, AttributeError) as error:
        legal = ("prompt", "subject", "target_true", "target_new")
        what = f"'requested_rewrite' is not as CounterFact has it ({type(error).__name__}: {error})"
        raise PromptError(explain(what, where=origin, legal=legal)) from None
    flat = {name: value for name, value in record.items() if name != "requested_rewrite"}
    flat.update(prompt=filled, subject=subject, template=template, answer=true, target_new=new)
    if "relation_id" in rewrite:
        flat["relation_id"] = rewrite["relation_id"]
    return flat


def _json_name(value: Any) -> str:
    """Name a value's type in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}"
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, type(value).__name__)
