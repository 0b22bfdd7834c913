"""The family records; a new family is one file here, found by its name alone."""

import importlib
import pkgutil
from functools import cache
from typing import Any

from causalnet.model.record import Family

__all__ = ["record_for", "records"]


@cache
def records() -> tuple[Family, ...]:
    """Return every record, in the order of the file names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [importlib.import_module(f"{__name__}.{name}").RECORDS for name in names]
    return tuple(record for group in found for record in group)


def record_for(config: Any) -> Family | None:
    """Return the record of a model's config, or None where no family covers it."""
    for record in records():
        if config.model_type in record.model_types and record.when(config):
            return record
    return None
