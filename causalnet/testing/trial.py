"""Running hypothesis from inside a function: a strategy, something that is tried, and the smallest case that fails."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Broken", "try_cases"]


_PATIENCE = 150
"""Smaller cases that are tried once one has failed: each may be several forward passes of a large model."""


class Broken(Exception):
    """What tells hypothesis that a case fails."""


class _Enough(BaseException):
    """What ends the search for smaller cases; hypothesis takes an Exception for one more failure."""


def try_cases(strategy: Any, tried: Callable[[Any], None], count: int, *, seed: int = 0, shrink: bool = True) -> None:
    """Try cases; where one raises :class:`Broken`, go on with smaller ones: the last that raises it is the smallest.

    Parameters
    ----------
    strategy
        Strategy of the cases.
    tried
        Called with each case.
    count
        Number of cases.  Hypothesis begins with the simplest; a single case is one that was drawn.
    seed
        Of the cases.
    shrink
        Whether smaller cases are looked for.

    Examples
    --------
    >>> from hypothesis import strategies as st
    >>> seen = []
    >>> def below_ten(number):
    ...     if number > 9:
    ...         seen.append(number)
    ...         raise Broken
    >>> try_cases(st.integers(0, 10_000), below_ten, 50)
    >>> seen[-1]
    10
    """
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import seed as seeded
    from hypothesis.errors import Flaky, HypothesisWarning

    waiting, left = count == 1, _PATIENCE
    broken = False

    def each(case: Any) -> None:
        nonlocal waiting, left, broken
        if waiting:
            waiting = False
            return
        left -= broken
        if left < 0:
            raise _Enough
        try:
            tried(case)
        except Broken:
            broken = True
            raise

    checks = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much,
              HealthCheck.large_base_example, HealthCheck.function_scoped_fixture)  # fmt: skip
    quiet = settings(
        max_examples=max(count, 2), deadline=None, database=None, derandomize=False, print_blob=False,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,), suppress_health_check=checks,
        verbosity=Verbosity.quiet, report_multiple_bugs=False,
    )  # fmt: skip
    with warnings.catch_warnings(), suppress(Broken, Flaky, _Enough):
        # Cases can be long to print, and are not printed here.
        warnings.simplefilter("ignore", HypothesisWarning)
        quiet(seeded(seed)(given(strategy)(each)))()
