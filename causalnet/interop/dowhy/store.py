"""Tensors behind integers: DoWhy's variables are scalars, so its data frames hold handles."""

from typing import Any

from causalnet.errors import InputError

__all__ = ["NO_NOISE", "Store"]

NO_NOISE = 0
"""The handle of "no noise": a mechanism's output as it is."""


class Store:
    """Tensors, each with the number of the prompt that it belongs to, by handles counted from 1.

    Handles stay exact in the float64 columns of a data frame.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, Any]] = [(-1, None)]

    def __len__(self) -> int:
        return len(self._entries) - 1

    def put(self, prompt: int, tensor: Any) -> int:
        """Keep a tensor and return its handle."""
        self._entries.append((prompt, tensor))
        return len(self._entries) - 1

    def prompt(self, handle: float) -> int:
        """Return the number of the prompt that a handle belongs to."""
        return self._entry(handle)[0]

    def __getitem__(self, handle: float) -> Any:
        return self._entry(handle)[1]

    def release(self, length: int) -> None:
        """Forget every tensor that was put after the first ``length``."""
        del self._entries[length + 1 :]

    def _entry(self, handle: float) -> tuple[int, Any]:
        number = int(handle)
        if number != handle or not 0 < number < len(self._entries):
            raise InputError(
                f"{handle!r} is no handle of a tensor: the twin's data hold handles, which are not to be computed with"
            )
        return self._entries[number]
