"""DoWhy, loaded when it is first used, with its settings as they have to be here."""

import importlib
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from causalnet.errors import InputError, explain

__all__ = ["load", "settled"]


def load(name: str = "dowhy.gcm") -> Any:
    """Import a module of DoWhy.

    Raises
    ------
    InputError
        If DoWhy is not installed, or too old to have ``gcm``.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        mend = "install it: pip install 'dowhy>=0.14,<0.16'"
        raise InputError(explain(f"{name} cannot be imported: {error}", mend=mend)) from error


@contextmanager
def settled(seed: int) -> Iterator[None]:
    """Run DoWhy in one process, without progress bars, from a seed; put everything back afterwards.

    DoWhy draws from the global generators of ``random`` and ``numpy``, and by default starts one process
    per core, which would each need a copy of the model.  Silenced, because a caller can do nothing about them:
    its use of an argument that pandas 3 deprecates, and its notes on how it tests.
    """
    log = logging.getLogger("dowhy")
    level = log.level
    config = load("dowhy.gcm.config")
    bars, jobs = config.show_progress_bars, config.default_n_jobs
    own, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - DoWhy's generator is the global one
    config.disable_progress_bars()
    config.set_default_n_jobs(1)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - see above
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The copy keyword is deprecated", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)
        config.show_progress_bars = bars
        config.set_default_n_jobs(jobs)
        random.setstate(own)
        np.random.set_state(legacy)  # noqa: NPY002 - see above
