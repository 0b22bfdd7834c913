"""Which model, and which software: what two machines must share to compute the same numbers."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from causalnet.errors import InputError, explain

__all__ = ["versions", "weights"]

_PACKAGES = ("causalnet-transformers", "torch", "transformers", "numpy")
_WHOLE = 1 << 20
"""Tensors up to this many numbers are digested whole, larger ones by as many of theirs, evenly spread."""


def versions() -> dict[str, str]:
    """Return the versions of causalnet, of the libraries that compute, and of Python.

    Examples
    --------
    >>> list(versions())
    ['causalnet-transformers', 'torch', 'transformers', 'numpy', 'python']
    """
    return {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def weights(model: Any) -> str:
    """Return a digest of a loaded model: its config, and every parameter's name, shape, type and numbers.

    Large parameters count by a million of their numbers, so that it stays cheap for models of any size.

    Parameters
    ----------
    model
        A ``transformers`` model.

    Raises
    ------
    InputError
        If a parameter is not in the memory of a device.

    Examples
    --------
    >>> from causalnet.testing.crafted import blank_gpt2
    >>> one, other = (blank_gpt2(1, width=4, vocab=3) for _ in range(2))
    >>> weights(one) == weights(other)
    True
    >>> other.lm_head.weight.data[0, 0] = 1.0
    >>> weights(one) == weights(other)
    False
    """
    import torch

    config = {key: value for key, value in model.config.to_dict().items() if key not in _PASSING}
    total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.state_dict().items():
        if parameter.is_meta:
            mend = "give it more or larger GPUs, or a smaller dtype"
            raise InputError(explain(f"{name} does not fit on the devices, so it was left out", mend=mend))
        total.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat = parameter.detach().reshape(-1)
        flat = flat[:: max(1, -(-flat.numel() // _WHOLE))].cpu().contiguous()
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


_PASSING = ("_name_or_path", "transformers_version", "_attn_implementation", "torch_dtype", "dtype")
"""What a config says of how it was loaded rather than of the model."""
