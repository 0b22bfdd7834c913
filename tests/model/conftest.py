import copy
from functools import cache

import pytest
import torch

from causalnet.model.small import small_model


@cache
def build_small(model_type, dtype="float32", **fields):
    return small_model(model_type, dtype=getattr(torch, dtype), **fields)


@pytest.fixture(scope="session")
def small():
    """Return a function that builds (once) a small random model of a family; never change what it returns."""
    return build_small


@pytest.fixture
def fresh():
    """Return a function that builds a small random model that the test may change."""

    def build(model_type, **fields):
        return copy.deepcopy(build_small(model_type, **fields))

    return build
