"""Why a read-out changed: shares of what wrote to the residual stream, and of the read-out itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from causalnet.errors import InputError, explain
from causalnet.graph import Node
from causalnet.interop.dowhy.load import load, settled
from causalnet.interop.dowhy.twin import Twin

if TYPE_CHECKING:
    import pandas as pd
    import torch

__all__ = ["unit_change"]

READOUT = "readout"
_EXACT_UP_TO = 11


def unit_change(
    before: Twin,
    after: Twin,
    frame: "pd.DataFrame | None" = None,
    *,
    groups: Mapping[str, Sequence[Node | str]] | None = None,
    tokens: Sequence[int] | None = None,
    permutations: int = 50,
    seed: int = 0,
) -> "pd.DataFrame":
    """Attribute the change of each prompt's logit to the contributions that changed.

    Between a clean and an ablated run of one model: ``unit_change(twin, twin, ablated)``, ``ablated`` from
    ``twin.samples``.  Between a base and a tuned model: ``unit_change(base, tuned)``; then the final norm and the
    unembedding are one more player, ``readout``.

    Parameters
    ----------
    before, after
        The twins, on the same prompts.
    frame
        The rows of ``after`` that are compared; default its natural world.
    groups
        Groups of nodes by name, such as layers; default each contributing node by itself.
    tokens
        The token of each prompt; default the most likely one before.
    permutations
        How many orders of the players, where there are more than 11; with fewer the shares are exact.
    seed
        Of the orders.

    Returns
    -------
    pandas.DataFrame
        [prompt, player] in logits, centred over the vocabulary, at the last position; the players' shares sum to
        the change of the logit.  A player is a group of contributions; the final norm's scale follows from them.

    Raises
    ------
    InputError
        If the twins' prompts or contributing nodes differ, or a group names a node that does not contribute.

    References
    ----------
    Budhathoki, Michailidis and Janzing, Explaining the root causes of unit-level changes (2022).

    Examples
    --------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import causalnet as cn
    >>> from causalnet.interop.dowhy import to_gcm
    >>> config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
    ...                      num_attention_heads=2, num_key_value_heads=2)
    >>> def tokenizer(text):
    ...     return {"input_ids": [len(word) for word in text.split()]}
    >>> twin = to_gcm(cn.compile(LlamaForCausalLM(config).eval(), tokenizer=tokenizer), ["a bc def", "abcd ab"])
    >>> ablated = twin.samples({"attn.01": twin.setting(lambda prompt, value: 0 * value)})
    >>> shares = unit_change(twin, twin, ablated)
    >>> list(shares), bool((shares["mlp[0]"].abs() < 1e-6).all())
    (['embed', 'attn[0]', 'mlp[0]', 'attn[1]', 'mlp[1]'], True)
    """
    import pandas as pd
    import torch

    rows = len(before.data)
    if before.prompts != after.prompts:
        raise InputError("the twins are on different prompts; a change is of the same prompt")
    if before.graph.contributors != after.graph.contributors:
        raise InputError("different nodes contribute in the two models, so there is no change of the same node")
    players = _players(before, groups)
    old = _contributions(before, before.data, players)
    new = _contributions(after, after.data if frame is None else frame, players)
    own = [before.value(before.data, row, "logits")[-1] for row in range(rows)]
    targets = torch.tensor([int(one.argmax()) for one in own] if tokens is None else list(tokens))
    store = torch.cat([old, new])  # [2 · prompt, player, d_model]
    tables = [
        pd.DataFrame({name: np.arange(rows) + start for name in players}, dtype=np.float64) for start in (0, rows)
    ]
    mechanisms = [_Readout(twin, store, targets) for twin in (before, after)]
    found, change = load("dowhy.gcm.shapley"), load("dowhy.gcm.unit_change")
    count = len(players) + (before is not after)
    name = "EXACT" if count <= _EXACT_UP_TO else "PERMUTATION"
    how = found.ShapleyConfig(found.ShapleyApproximationMethods[name], num_permutations=permutations, n_jobs=1)
    with settled(seed):
        if before is after:
            shares = change.unit_change(*tables, list(players), mechanisms[0], shapley_config=how)
        else:
            shares = change.unit_change(*tables, list(players), *mechanisms, shapley_config=how)
    return shares.rename(columns={"f": READOUT})


def _players(twin: Twin, groups: Mapping[str, Sequence[Node | str]] | None) -> dict[str, tuple[Node, ...]]:
    free = twin.graph.contributors
    if groups is None:
        return {str(node): (node,) for node in free}
    players = {name: tuple(n for one in nodes for n in twin.graph.resolve(one)) for name, nodes in groups.items()}
    given = [node for nodes in players.values() for node in nodes]
    for node in given:
        if node not in free or given.count(node) > 1:
            what = f"{node} does not contribute" if node not in free else f"{node} is in two groups"
            raise InputError(explain(what, legal=map(str, free), got=str(node)))
    if legal := {"f", READOUT} & set(players):
        raise InputError(f"a group cannot be called {legal.pop()!r}")
    rest = tuple(node for node in free if node not in given)
    return {**players, "rest": rest} if rest else players


def _contributions(twin: Twin, frame: "pd.DataFrame", players: Mapping[str, Sequence[Node]]) -> "torch.Tensor":
    """Return what each player adds to the residual stream at the last position [prompt, player, d_model]."""
    import torch

    table = []
    with torch.no_grad():
        for row in range(len(frame)):
            parts = []
            for nodes in players.values():
                parts.append(sum(twin.trunk.contribution(n, twin.value(frame, row, n))[-1] for n in nodes))
            table.append(torch.stack(parts))  # type: ignore[arg-type]
    return torch.stack(table)


@dataclass(frozen=True, eq=False)
class _Readout:
    """From handles of contributions to logits: what DoWhy takes for a mechanism."""

    twin: Twin
    store: "torch.Tensor"
    targets: "torch.Tensor"

    def predict(self, handles: np.ndarray) -> np.ndarray:
        """Return the centred logit of each row's target [prompt, 1]."""
        import torch

        readout = self.twin.trunk.mechanisms.readout
        which = torch.as_tensor(handles.astype(np.int64))
        stream = self.store[which, torch.arange(which.shape[1])].sum(1)
        with torch.no_grad():
            logits = readout.cap(readout.precap_logits(stream.unsqueeze(1)))[:, 0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = logits[torch.arange(len(logits)), self.targets.to(logits.device)] - logits.mean(-1)
        return chosen.double().cpu().numpy().reshape(-1, 1)
