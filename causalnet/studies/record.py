"""How a result was made, for its attributes."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from causalnet.prompts import Prompts

if TYPE_CHECKING:
    from causalnet.model.mechanism import Mechanisms

__all__ = ["run_record", "versions"]


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
    return {
        "model": mechanisms.name,
        "revision": getattr(mechanisms.config, "_commit_hash", None),
        "dtype": str(mechanisms.dtype).removeprefix("torch."),
        "device": str(mechanisms.device),
        "attention": getattr(mechanisms.config, "_attn_implementation", None),
        "versions": versions(),
        "seed": seed,
        "prompts": {
            "source": prompts.name,
            "count": len(prompts),
            "notes": list(prompts.notes),
            "dropped": [str(one) for one in prompts.dropped],
        },
        "arguments": dict(arguments),
    }


def versions() -> dict[str, str]:
    """Return the versions of causalnet, of the libraries that compute, and of Python."""
    found = {name: _version(name) for name in ("causalnet-transformers", "torch", "transformers", "numpy")}
    return found | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
