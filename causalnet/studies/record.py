"""How a study's data were made, for their attributes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from causalnet.prompts import Prompts

if TYPE_CHECKING:
    from causalnet.model.mechanism import Mechanisms

__all__ = ["run_record"]


def run_record(
    mechanisms: "Mechanisms", prompts: Prompts, *, seed: int, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return how a result was made: model, precision, device, versions, seed, prompts, arguments.

    Parameters
    ----------
    mechanisms
        The compiled model.
    prompts
        The prompts it ran on.
    seed
        Of donors and of all resampling.
    arguments
        Those given and those defaulted.
    """
    from causalnet.effects.record import run_record as record

    read = {
        "source": prompts.name,
        "count": len(prompts),
        "notes": list(prompts.notes),
        "dropped": [str(one) for one in prompts.dropped],
    }
    return {**record(mechanisms, seed=seed, given={}, defaulted={}), "prompts": read, "arguments": dict(arguments)}
