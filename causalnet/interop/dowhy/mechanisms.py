"""The classes through which DoWhy calls a model's modules.  Importing this file imports DoWhy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from dowhy.gcm.causal_mechanisms import InvertibleFunctionalCausalModel, StochasticModel

from causalnet.errors import InputError, explain
from causalnet.interop.dowhy.store import NO_NOISE, Store

__all__ = ["Modules", "Prompted"]


class Prompted(StochasticModel):
    """A root: draws a prompt, each as likely as any other.

    Parameters
    ----------
    handles
        The handles of its value in every prompt.
    seed
        Seed of the draws.
    """

    def __init__(self, handles: Sequence[int], seed: int) -> None:
        self.handles = tuple(handles)
        self.seed = seed
        self._draws = np.random.default_rng(seed)

    def fit(self, X: np.ndarray) -> None:
        """Do nothing: prompts are given, not estimated."""

    def draw_samples(self, num_samples: int) -> np.ndarray:
        """Return handles [row, 1]."""
        return self._draws.choice(np.asarray(self.handles, dtype=np.float64), (num_samples, 1))

    def clone(self) -> "Prompted":
        """Return another one that draws the same prompts."""
        return Prompted(self.handles, self.seed)


class Modules(InvertibleFunctionalCausalModel):
    """A node: the value that its modules compute from the parents' values, plus noise.

    The network itself is deterministic, so there is no noise to draw; noise is what an observed value differs
    by from the computed one, and a counterfactual keeps it.

    Parameters
    ----------
    compute
        From the prompt's number and the parents' tensors, in the order of their names, to the node's tensor.
    store
        Where the handles lead.
    """

    def __init__(self, compute: Callable[[int, Sequence[Any]], Any], store: Store) -> None:
        self.compute, self.store = compute, store

    def fit(self, X: np.ndarray, Y: np.ndarray) -> None:
        """Do nothing: the modules have their weights."""

    def draw_noise_samples(self, num_samples: int) -> np.ndarray:
        """Return "no noise" [row, 1]."""
        return np.full((num_samples, 1), float(NO_NOISE))

    def evaluate(self, parent_samples: np.ndarray, noise_samples: np.ndarray) -> np.ndarray:
        """Return handles [row, 1] of the values, from handles [row, parent] and noise."""
        found = []
        for parents, noise in zip(parent_samples, np.ravel(noise_samples), strict=True):
            prompt, value = self._computed(parents)
            found.append(self.store.put(prompt, value if noise == NO_NOISE else value + self.store[noise]))
        return np.array(found, dtype=np.float64).reshape(-1, 1)

    def estimate_noise(self, target_samples: np.ndarray, parent_samples: np.ndarray) -> np.ndarray:
        """Return handles [row, 1] of what the values differ by from those that the modules compute."""
        found = []
        for target, parents in zip(np.ravel(target_samples), parent_samples, strict=True):
            prompt, value = self._computed(parents)
            rest = self.store[target] - value
            found.append(self.store.put(prompt, rest) if bool(rest.any()) else NO_NOISE)
        return np.array(found, dtype=np.float64).reshape(-1, 1)

    def clone(self) -> "Modules":
        """Return the same mechanism: there is nothing to train again."""
        return Modules(self.compute, self.store)

    def _computed(self, parents: np.ndarray) -> tuple[int, Any]:
        prompts = {self.store.prompt(handle) for handle in parents}
        if len(prompts) != 1:
            what = f"one row holds values of prompts {sorted(prompts)}"
            raise InputError(explain(what, mend="a row is one prompt; take its values from that prompt's row"))
        (prompt,) = prompts
        return prompt, self.compute(prompt, [self.store[handle] for handle in parents])
