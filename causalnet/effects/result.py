"""The answer to one query: its value, its interval, the units it was averaged from, how it was made."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalnet.errors import DataError, InputError, explain

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from causalnet.effects.statistics import Convergence

__all__ = ["RESULT_SCHEMA", "Result", "read_json", "write_json"]

RESULT_SCHEMA = "causalnet-result/1"
_ARRAYS = ("values", "units_table", "donor_index")


@dataclass(frozen=True, eq=False)
class Result:
    """The answer to a do-expression on a model and prompts.

    Parameters
    ----------
    expression
        The query, in its canonical text.
    value
        Mean over prompts of the means over their donors, in ``units``.  A negative effect: the outcome falls.
    std_error
        Standard error over prompts; NaN for a single prompt.
    ci
        Confidence limits at ``level``; NaN for a single prompt.
    level
        Confidence level.
    n
        Number of prompts that were averaged.
    units
        Units of the outcome.
    values
        [prompt]: each prompt's mean over its donors.
    units_table
        [prompt, donor]: each unit.  One column where nothing was drawn; NaN where a prompt has fewer donors.
    prompts
        [prompt]: which of the prompts they are (all, unless the query asks for a subgroup).
    texts, targets, target_texts
        [prompt]: the prompt, its target's token number (at the last position) and text.
    donor_index
        [prompt, donor]: number of the donor in the pool, -1 where there are fewer; no columns where no
        donors are drawn.
    estimand
        What the interval covers, in words.
    how
        The computation: worlds, rows, draws, the share of one full forward per row that was computed.
    run
        The run record: model and revision, dtype, device, versions, seed, arguments.
    notes
        What a reader should know: donors that were short, assignments that gave way, few prompts.

    Examples
    --------
    >>> result = Result("E[entropy]", 2.0, 0.5, (1.0, 3.0), 0.95, 2, "nats", [1.5, 2.5], [[1.5], [2.5]], (0, 1),
    ...                 ("a", "b"))
    >>> print(result)
    E[entropy]
      2 ± 0.5 nats
      95 % interval: 1 to 3
      n = 2 prompts
    >>> float(result), result.values.tolist()
    (2.0, [1.5, 2.5])
    """

    expression: str
    value: float
    std_error: float
    ci: tuple[float, float]
    level: float
    n: int
    units: str
    values: np.ndarray
    units_table: np.ndarray
    prompts: tuple[int, ...]
    texts: tuple[str, ...]
    targets: tuple[int, ...] = ()
    target_texts: tuple[str, ...] = ()
    donor_index: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))
    estimand: str = ""
    how: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            kind = np.int64 if name == "donor_index" else np.float64
            array = np.array(getattr(self, name), dtype=kind)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        for name in ("ci", "prompts", "texts", "targets", "target_texts", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rows = len(self.prompts)
        if self.values.shape != (rows,) or self.units_table.ndim != 2 or len(self.units_table) != rows:
            raise DataError(
                f"a result of {rows} prompts has values of shape {self.values.shape} and units_table of shape "
                f"{self.units_table.shape}; they need ({rows},) and ({rows}, donors)"
            )

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Result({self.expression!r}: {self.value:.6g} ± {self.std_error:.2g}, n = {self.n})"

    def __rich__(self) -> str:
        """Return what rich prints: the table, its brackets kept."""
        from rich.markup import escape

        return escape(str(self))

    def __str__(self) -> str:
        spread = "" if math.isnan(self.std_error) else f" ± {self.std_error:.2g}"
        lines = [self.expression, f"  {self.value:.6g}{spread} {self.units}"]
        if math.isnan(self.ci[0]):
            lines.append("  one prompt: no interval")
        else:
            low, high = self.ci
            covers = f" ({self.estimand})" if self.estimand else ""
            lines.append(f"  {100 * self.level:g} % interval: {low:.6g} to {high:.6g}{covers}")
        lines.append(f"  n = {self.n} prompt{'s' * (self.n != 1)}{self._draws()}")
        if self.how:
            lines.append(f"  how: {_how(self.how, self.run)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _draws(self) -> str:
        donors = bool(self.donor_index.size)
        if not donors and self.units_table.shape[1] == 1:
            return ""
        used = (~np.isnan(self.units_table)).sum(1)
        few, most = int(used.min()), int(used.max())
        noun = "donor" if donors else "draw"
        return f", {most} {noun}{'s' * (most != 1)} each" if few == most else f", {few} to {most} {noun}s each"

    def to_dict(self, *, values: bool = False) -> dict[str, Any]:
        """Return ``value, std_error, ci, n, units, expression``, and ``values`` where asked; None stands for NaN."""
        found: dict[str, Any] = {
            "value": _plain(self.value),
            "std_error": _plain(self.std_error),
            "ci": [_plain(end) for end in self.ci],
            "n": self.n,
            "units": self.units,
            "expression": self.expression,
        }
        return found | {"values": [_plain(one) for one in self.values.tolist()]} if values else found

    def save(self, path: str | Path) -> Path:
        """Write the result as one JSON file; numbers are written so that they read back equal.

        Raises
        ------
        InputError
            If the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> result = Result("E[kl]", 0.25, 0.0, (0.25, 0.25), 0.95, 2, "nats", [0.25, 0.25], [[0.25], [0.25]],
        ...                 (0, 1), ("a", "b"))
        >>> Result.load(result.save(Path(tempfile.mkdtemp()) / "kl.json")).value
        0.25
        """
        return write_json(path, self.stored())

    def stored(self) -> dict[str, Any]:
        """Return what :meth:`save` writes, as plain values; None stands for NaN."""
        return {"schema": RESULT_SCHEMA, **{one.name: _plain(getattr(self, one.name)) for one in fields(self)}}

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read a result that :meth:`save` wrote.

        Raises
        ------
        DataError
            If it is no such file.
        """
        return cls.from_stored(read_json(path, RESULT_SCHEMA), where=str(path))

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any], *, where: str = "result") -> "Result":
        """Return the result that :meth:`stored` told; see :meth:`load`."""
        missing = [one.name for one in fields(cls) if one.name not in stored]
        if missing:
            raise DataError(f"{where}: the result lacks {', '.join(missing)}")
        given = {one.name: stored[one.name] for one in fields(cls)}
        for name in ("value", "std_error"):
            given[name] = _number(given[name])
        given["ci"] = [_number(end) for end in given["ci"]]
        given["values"] = [_number(one) for one in given["values"]]
        given["units_table"] = [[_number(one) for one in row] for row in given["units_table"]]
        if not given["donor_index"]:
            given["donor_index"] = np.empty((len(given["prompts"]), 0))
        return cls(**given)

    def convergence(self) -> "Convergence":
        """Return the estimate from the first 1, 2, … donors, and which part of its error more donors would remove."""
        from causalnet.effects.statistics.donors import donor_convergence

        return donor_convergence(self.units_table)

    def _repr_html_(self) -> str:
        from causalnet.draw.display import result_html

        return result_html(self)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per unit.

        Returns
        -------
        pandas.DataFrame
            ``prompt, text, target, donor, donor_index, value``; units that a prompt lacks have no row, and
            ``donor_index`` is -1 where no donor was drawn.
        """
        import pandas as pd

        rows, draws = self.units_table.shape
        drawn = self.donor_index.shape == self.units_table.shape
        index = self.donor_index if drawn else np.full((rows, draws), -1)
        targets = self.target_texts or ("",) * rows
        table = {
            "prompt": np.repeat(self.prompts, draws),
            "text": np.repeat(np.array(self.texts, dtype=object), draws),
            "target": np.repeat(np.array(targets, dtype=object), draws),
            "donor": np.tile(np.arange(draws), rows),
            "donor_index": index.ravel(),
            "value": self.units_table.ravel(),
        }
        return pd.DataFrame(table).dropna(subset=["value"]).reset_index(drop=True)

    def to_dataset(self) -> "xr.Dataset":
        """Return the result as an ``xarray.Dataset``.

        Returns
        -------
        xarray.Dataset
            ``values [prompt]``, ``units_table [prompt, donor]``, ``text``, ``target``, ``target_id [prompt]``
            and, where donors were drawn, ``donor_index [prompt, donor]``; the rest in attributes.
        """
        import xarray as xr

        table = ("prompt", "donor")
        found: dict[str, Any] = {
            "values": ("prompt", self.values, {"units": self.units, "long_name": "mean over the prompt's donors"}),
            "units_table": (table, self.units_table, {"units": self.units, "long_name": "one unit"}),
            "text": ("prompt", list(self.texts), {"units": "text", "long_name": "the prompt"}),
        }
        if self.targets:
            found["target_id"] = ("prompt", list(self.targets), {"units": "index", "long_name": "token of the target"})
            found["target"] = ("prompt", list(self.target_texts), {"units": "text", "long_name": "text of the target"})
        if self.donor_index.shape == self.units_table.shape:
            words = {"units": "index", "long_name": "number of the donor prompt, -1 where none"}
            found["donor_index"] = (table, self.donor_index, words)
        attributes = {
            **self.to_dict(),
            "schema": RESULT_SCHEMA,
            "level": self.level,
            "estimand": self.estimand,
            "how": json.dumps(_plain(self.how)),
            "run": json.dumps(_plain(self.run)),
            "notes": json.dumps(list(self.notes), ensure_ascii=False),
        }
        coordinates = {"prompt": list(self.prompts), "donor": list(range(self.units_table.shape[1]))}
        attributes["std_error"], attributes["ci"] = self.std_error, list(self.ci)
        return xr.Dataset(found, coords=coordinates, attrs=attributes)


def write_json(path: str | Path, stored: Mapping[str, Any]) -> Path:
    """Write plain values as one JSON file."""
    path = Path(path)
    text = json.dumps(stored, ensure_ascii=False, allow_nan=False, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"{path}: the result cannot be written: {error.strerror}") from None
    return path


def read_json(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a JSON file that says it follows a schema."""
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no result can be read: {error}") from None
    said = stored.get("schema") if isinstance(stored, dict) else None
    if said != schema:
        raise DataError(explain(f"{path}: schema {said!r} is not one this version reads", legal=[schema]))
    return stored


def _how(how: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    parts = [f"{how['worlds']} world{'s' * (how['worlds'] != 1)}, {how['rows']} rows"]
    if how["rows"]:
        parts.append(f"{100 * how['share_of_full_forward']:.1f} % of one full forward per row")
    if run:
        parts.append(f"{run['model']} in {run['dtype']} on {run['device']}")
    return "; ".join(parts)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold; NaN becomes None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
