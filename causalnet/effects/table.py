"""Several named effects of one question: results by name, and the table that shows them."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.effects.result import Result, read_json, write_json
from causalnet.effects.stored import plain_units, units_from
from causalnet.errors import DataError, UnknownNameError, explain

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["EFFECTS_SCHEMA", "Effects"]

EFFECTS_SCHEMA = "causalnet-effects/1"


@dataclass(frozen=True, eq=False)
class Effects(Mapping[str, Result]):
    """Named effects on the same prompts, each a :class:`~causalnet.effects.result.Result`.

    Parameters
    ----------
    title
        What was asked.
    results
        The results by name, in the order in which they are shown.
    units
        The arrays that they were averaged from, unit by unit, and what else was found, such as
        :class:`~causalnet.effects.decompose.Split`; None where the results' own ``units_table`` says all.
    notes
        What a reader should know about all of them.

    Examples
    --------
    >>> one = Result("TE(attn[0] = zero)", -2.0, 0.5, (-3.0, -1.0), 0.95, 2, "logits", [-1.5, -2.5], [[-1.5], [-2.5]],
    ...              (0, 1), ("a", "b"))
    >>> found = Effects("attn[0] = zero", {"TE": one})
    >>> print(found)
    attn[0] = zero
      TE  -2  [-3, -1]
      logits; 95 % intervals; n = 2 prompts
    >>> found["TE"].value, list(found)
    (-2.0, ['TE'])
    """

    title: str
    results: Mapping[str, Result]
    units: Any = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Result:
        try:
            return self.results[name]
        except KeyError:
            raise UnknownNameError(explain(f"no effect {name!r}", legal=self.results, got=str(name))) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __contains__(self, name: object) -> bool:
        return name in self.results

    def __repr__(self) -> str:
        return f"Effects({self.title!r}: {', '.join(f'{name} {one.value:.4g}' for name, one in self.items())})"

    def __rich__(self) -> str:
        """Return what rich prints: the table, its brackets kept."""
        from rich.markup import escape

        return escape(str(self))

    def __str__(self) -> str:
        rows = [(name, f"{one.value:.4g}", _ends(one), one.units) for name, one in self.items()]
        widths = [max((len(row[place]) for row in rows), default=0) for place in range(3)]
        lines = [self.title]
        one_unit = len(self._units()) == 1
        for name, value, ends, units in rows:
            shown = "" if one_unit else units
            lines.append(f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {ends:<{widths[2]}}  {shown}".rstrip())
        lines += [f"  {line}" for line in self._below()]
        return "\n".join(lines)

    def _units(self) -> list[str]:
        return list(dict.fromkeys(one.units for one in self.values()))

    def _below(self) -> list[str]:
        """Return what is said under the table."""
        some = list(self.values())
        levels = " and ".join(dict.fromkeys(f"{100 * one.level:g}" for one in some))
        counts = [one.n for one in some]
        shown = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        covers = " and ".join(dict.fromkeys(one.estimand for one in some if one.estimand))
        units = f"{self._units()[0]}; " if len(self._units()) == 1 else ""
        first = f"{units}{levels} % intervals{f' ({covers})' if covers else ''}; n = {shown} prompts"
        notes = dict.fromkeys([*self.notes, *(note for one in some for note in one.notes)])
        return [first, *(f"note: {note}" for note in notes)]

    def _repr_html_(self) -> str:
        from html import escape

        shown = self.to_dataframe()[["value", "low", "high", "units", "expression"]]
        below = "<br>".join(map(escape, self._below()))
        return f"<p><code>{escape(self.title)}</code></p>{shown.to_html(float_format='{:.4g}'.format)}<p>{below}</p>"

    def to_dataframe(self) -> "pd.DataFrame":
        """Return one row per effect.

        Returns
        -------
        pandas.DataFrame
            Index: the names; ``value, std_error, low, high, n, units, expression``.
        """
        import pandas as pd

        rows = {
            name: {
                "value": one.value,
                "std_error": one.std_error,
                "low": one.ci[0],
                "high": one.ci[1],
                "n": one.n,
                "units": one.units,
                "expression": one.expression,
            }
            for name, one in self.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("effect")

    def to_dataset(self) -> "xr.Dataset":
        """Return every unit of every effect.

        Returns
        -------
        xarray.Dataset
            One variable [prompt, donor] per effect, under its name; ``units``, ``expression``, ``value``, ``std_error``
            and ``ci`` in its attributes, the run record and the notes in the dataset's.
        """
        import xarray as xr

        arrays = []
        for name, one in self.items():
            told = {"units": one.units, "expression": one.expression, "value": one.value}
            coords = {"prompt": list(one.prompts), "donor": list(range(one.units_table.shape[1]))}
            attrs = told | {"std_error": one.std_error, "ci": list(one.ci)}
            arrays.append(xr.DataArray(one.units_table, coords, ("prompt", "donor"), name=name, attrs=attrs))
        # A table of one column draws nothing: it is the same in every draw.
        widest = max((len(one["donor"]) for one in arrays), default=0)
        full = [one if len(one["donor"]) == widest else _widened(one, widest) for one in arrays]
        aligned = xr.align(*full, join="outer")
        first = next(iter(self.values()))
        attributes = {"title": self.title, "schema": EFFECTS_SCHEMA, "notes": json.dumps(list(self.notes))}
        attributes["run"] = json.dumps(first.stored()["run"])
        return xr.Dataset({one.name: one for one in aligned}, attrs=attributes)

    def save(self, path: str | Path) -> Path:
        """Write the results and the units as one JSON file; see :meth:`causalnet.effects.result.Result.save`.

        Raises
        ------
        InputError
            If the file cannot be written, or ``units`` is nothing that this package made.

        Examples
        --------
        >>> import tempfile
        >>> one = Result("E[kl]", 0.25, 0.0, (0.25, 0.25), 0.95, 2, "nats", [0.25, 0.25], [[0.25], [0.25]],
        ...              (0, 1), ("a", "b"))
        >>> Effects.load(Effects("q", {"kl": one}).save(Path(tempfile.mkdtemp()) / "q.json"))["kl"].value
        0.25
        """
        told = {"schema": EFFECTS_SCHEMA, "title": self.title, "notes": list(self.notes)}
        results = {name: one.stored() for name, one in self.items()}
        return write_json(path, told | {"results": results, "units": plain_units(self.units)})

    @classmethod
    def load(cls, path: str | Path) -> "Effects":
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If it is no such file.
        """
        stored = read_json(path, EFFECTS_SCHEMA)
        try:
            results = {
                name: Result.from_stored(one, where=f"{path}: {name}") for name, one in stored["results"].items()
            }
            return cls(str(stored["title"]), results, units_from(stored["units"]), tuple(stored["notes"]))
        except (KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path}: the file holds no effects: {error!r}") from None


def _ends(one: Result) -> str:
    return "no interval" if math.isnan(one.ci[0]) else f"[{one.ci[0]:.4g}, {one.ci[1]:.4g}]"


def _widened(array: "xr.DataArray", donors: int) -> "xr.DataArray":
    return array.isel(donor=[0] * donors).assign_coords(donor=list(range(donors)))
