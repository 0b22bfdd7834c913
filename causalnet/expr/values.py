"""Values: what a node is set to.

A hard value cuts the arrows into the node; a soft one is a function of the value that the node
would have had in this world.
"""

import math
import numbers
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from causalnet.errors import ExpressionError
from causalnet.expr.positions import quote

if TYPE_CHECKING:
    from causalnet.expr.assign import Do
    from causalnet.expr.world import World

__all__ = [
    "MEAN",
    "NATURAL",
    "RESAMPLE",
    "ZERO",
    "Add",
    "Given",
    "InWorld",
    "Mean",
    "Natural",
    "Noise",
    "Patch",
    "ProjectOut",
    "Resample",
    "Scale",
    "SiteValue",
    "Under",
    "Value",
    "Zero",
    "add",
    "mean",
    "natural",
    "noise",
    "patch",
    "project_out",
    "resample",
    "scale",
    "value",
    "zero",
]


@dataclass(frozen=True, slots=True)
class Zero:
    """Hard: the zero vector."""

    hard: ClassVar[bool] = True

    def __str__(self) -> str:
        return "zero"


@dataclass(frozen=True, slots=True)
class Mean:
    """Hard: the mean over the donor pool at the same position label."""

    hard: ClassVar[bool] = True

    def __str__(self) -> str:
        return "mean"


@dataclass(frozen=True, slots=True)
class Resample:
    """Hard: the value in a donor prompt; one donor per unit, jointly for all nodes and worlds."""

    hard: ClassVar[bool] = True

    def __str__(self) -> str:
        return "resample"


@dataclass(frozen=True, slots=True)
class Natural:
    """Hard: the value in world 0, wherever it is written (also inside ``under``)."""

    hard: ClassVar[bool] = True

    def __str__(self) -> str:
        return "natural"


@dataclass(frozen=True, slots=True)
class Patch:
    """Hard: the value in the paired prompt called ``name``."""

    name: str
    hard: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_name("patch", self.name)

    def __str__(self) -> str:
        return f"patch({quote(self.name)})"


@dataclass(frozen=True, slots=True)
class Given:
    """Hard: the vector that the caller gave under ``name``; written ``value("name")``."""

    name: str
    hard: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_name("value", self.name)

    def __str__(self) -> str:
        return f"value({quote(self.name)})"


@dataclass(frozen=True, slots=True)
class Under:
    """Hard: the value in another world, as written: ``under do(...)``.

    Expansion turns it into :class:`InWorld`.
    """

    do: "Do"
    depth: int = field(init=False, repr=False, compare=False)
    hard: ClassVar[bool] = True

    def __post_init__(self) -> None:
        from causalnet.expr.refs import deeper

        object.__setattr__(self, "depth", deeper(self.do))

    def __str__(self) -> str:
        return f"under {self.do}"


@dataclass(frozen=True, slots=True)
class InWorld:
    """Hard: the value in ``world``; what ``under do(...)`` becomes in a :class:`World`."""

    world: "World"
    hard: ClassVar[bool] = True

    def __str__(self) -> str:
        return f"under {self.world}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Soft: the node's value times ``factor``."""

    factor: float
    hard: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", number("scale", self.factor))

    def __str__(self) -> str:
        return f"scale({self.factor!r})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Soft: the node's value plus N(0, (size · the node's pooled standard deviation)²).

    The draw is keyed by seed, prompt, node, position and draw, so all worlds share it.
    """

    size: float
    hard: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", number("noise", self.size))
        if self.size <= 0:
            raise ExpressionError(f"noise({self.size!r}): the size is in standard deviations and above 0")

    def __str__(self) -> str:
        return f"noise({self.size!r})"


@dataclass(frozen=True, slots=True)
class Add:
    """Soft: the node's value plus ``factor`` times the vector called ``name``."""

    name: str
    factor: float
    hard: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_name("add", self.name)
        object.__setattr__(self, "factor", number("add", self.factor))

    def __str__(self) -> str:
        return f"add({quote(self.name)}, {self.factor!r})"


@dataclass(frozen=True, slots=True)
class ProjectOut:
    """Soft: the node's value without its part along the vector called ``name``."""

    name: str
    hard: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_name("project_out", self.name)

    def __str__(self) -> str:
        return f"project_out({quote(self.name)})"


Value = Zero | Mean | Resample | Natural | Patch | Given | Under | Scale | Noise | Add | ProjectOut
"""What an assignment may say."""

SiteValue = Zero | Mean | Resample | Natural | Patch | Given | InWorld | Scale | Noise | Add | ProjectOut
"""What a world's site may hold: :class:`Under` is replaced by :class:`InWorld`."""

ZERO = zero = Zero()
MEAN = mean = Mean()
RESAMPLE = resample = Resample()
NATURAL = natural = Natural()


def patch(name: str) -> Patch:
    """Return the value in the paired prompt called ``name``."""
    return Patch(name)


def value(name: str) -> Given:
    """Return the vector that is given under ``name`` when the query runs."""
    return Given(name)


def scale(factor: float) -> Scale:
    """Return the soft value "what it would be, times ``factor``"."""
    return Scale(factor)


def noise(size: float) -> Noise:
    """Return the soft value "what it would be, plus noise of ``size`` standard deviations"."""
    return Noise(size)


def add(name: str, factor: float = 1.0) -> Add:
    """Return the soft value "what it would be, plus ``factor`` times the vector ``name``"."""
    return Add(name, factor)


def project_out(name: str) -> ProjectOut:
    """Return the soft value "what it would be, without its part along the vector ``name``"."""
    return ProjectOut(name)


def number(what: str, given: float) -> float:
    """Return ``given`` as a finite float, or raise."""
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise ExpressionError(f"{what}: a number is needed, not {given!r}")
    try:
        finite = float(given)
    except OverflowError:
        finite = math.inf
    if not math.isfinite(finite):
        raise ExpressionError(f"{what}: {given!r} is not a finite number")
    return finite + 0.0  # -0.0 equals 0.0 but would print apart


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ExpressionError(f"{what}: a name in quotes is needed, not {name!r}")
