"""The pytest plugin: hypothesis profiles, and what laws are tried with as fixtures.

pytest imports it in every run, so it loads nothing until it is used: hypothesis's profiles are registered only where
a run asks for one with ``--causalnet-profile`` (or the ini option ``causalnet_profile``), and the fixtures import
what they give.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from causalnet.testing.report import LawReport

__all__ = [
    "assert_laws",
    "check_decomposition",
    "law",
    "load_profile",
    "pytest_addoption",
    "pytest_configure",
    "strategies",
    "tiny_model",
]

_PROFILES = ("quick", "ci", "thorough")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--causalnet-profile`` and the ini option ``causalnet_profile``."""
    group = parser.getgroup("causalnet")
    text = "hypothesis profile: causalnet's quick, ci or thorough (default: hypothesis is left as it is)"
    group.addoption("--causalnet-profile", choices=_PROFILES, default=None, help=text)
    parser.addini("causalnet_profile", text, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile that the run asks for."""
    name = config.getoption("--causalnet-profile") or config.getini("causalnet_profile")
    if name:
        load_profile(str(name))


def load_profile(name: str) -> None:
    """Register and load a hypothesis profile of causalnet's, as many cases per test as ``check_laws`` has per law.

    Parameters
    ----------
    name
        ``quick``: the same few cases in every run.  ``ci``: more, the same in every run.  ``thorough``: many, other
        ones in every run.

    Raises
    ------
    pytest.UsageError
        If there is no such profile.

    Examples
    --------
    >>> from hypothesis import settings
    >>> before = settings.get_current_profile_name()
    >>> load_profile("quick")
    >>> settings().max_examples
    6
    >>> settings.load_profile(before)
    """
    from hypothesis import HealthCheck, settings

    from causalnet.testing.report import PROFILES

    if name not in PROFILES:
        raise pytest.UsageError(f"causalnet_profile: unknown profile {name!r}; legal: {', '.join(PROFILES)}")
    steady = name != "thorough"
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    settings.register_profile(
        f"causalnet-{name}", max_examples=PROFILES[name], deadline=None, suppress_health_check=slow,
        derandomize=steady, database=None if steady else settings().database,
    )  # fmt: skip
    settings.load_profile(f"causalnet-{name}")


@pytest.fixture(scope="session")
def strategies() -> Any:
    """Give the strategies of :mod:`causalnet.testing.strategies`."""
    from causalnet.testing import strategies as found

    return found


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Give a maker of small random compiled models by family, each made once in a session."""
    from causalnet.testing.strategies import tiny_model as make

    return make


@pytest.fixture(scope="session")
def law() -> Callable[[str], Any]:
    """Give a law by its name; see :func:`causalnet.testing.law`."""
    from causalnet.testing.laws import law as found

    return found


@pytest.fixture(scope="session")
def assert_laws() -> "Callable[..., LawReport]":
    """Give :func:`causalnet.testing.check_laws` as an assertion: where a law fails it raises, with the report."""
    from causalnet.testing.report import check_laws

    def checked(model: Any = None, **options: Any) -> "LawReport":
        report = check_laws(model, **options)
        if not report.holds:
            raise AssertionError(str(report))
        return report

    return checked


@pytest.fixture(scope="session")
def check_decomposition() -> Callable[..., Any]:
    """Give :func:`causalnet.testing.check_decomposition`."""
    from causalnet.testing.estimators import check_decomposition as check

    return check
