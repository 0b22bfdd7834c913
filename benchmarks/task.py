"""The job that every tool is given: the models, the prompts, and how numbers are read off logits and outputs.

Nothing here knows causalnet, so that the tools agree for no other reason than being right.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

__all__ = ["SHAPES", "Node", "Result", "Steps", "Task", "reach"]

Node = tuple[str, int]
"""``("attn", layer)`` or ``("mlp", layer)``."""

BATCH_TOKENS = 4096
"""Tokens in one batch of full forwards; larger ones are no faster on a CPU and fill the memory with logits."""


@dataclass(frozen=True)
class Shape:
    """A kind of model and the paths of its parts; ``{}`` stands for the layer."""

    build: Callable[[int | None], Any]
    attn: str
    mlp: str
    norm: str


def _gpt2(layers: int | None) -> Any:
    """Return a model of GPT-2-small's shape with random weights."""
    return GPT2LMHeadModel(GPT2Config(**({} if layers is None else {"n_layer": layers})))


def _llama(layers: int | None) -> Any:
    """Return a Llama of about the same size, with grouped-query attention."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=layers or 12,
        num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config)


SHAPES = {
    "gpt2-small": Shape(_gpt2, "transformer.h.{}.attn", "transformer.h.{}.mlp", "transformer.ln_f"),
    "llama-small": Shape(_llama, "model.layers.{}.self_attn", "model.layers.{}.mlp", "model.norm"),
}


@cache
def _model(shape: str, layers: int | None) -> Any:
    torch.manual_seed(0)
    return SHAPES[shape].build(layers).eval().requires_grad_(False)


def reach(root: Any, path: str) -> Any:
    """Return the submodule (or a tool's stand-in for it) at a dotted path."""
    for part in path.split("."):
        root = root[int(part)] if part.isdigit() else getattr(root, part)
    return root


@dataclass(frozen=True)
class Task:
    """One sweep: a model's shape, random prompts of one length, donors for each.

    Donors are drawn from the other prompts, with replacement where there are too few of them.
    """

    shape: str
    tokens: int
    prompts: int = 8
    donors: int = 15
    layers: int | None = None

    @property
    def model(self) -> Any:
        """The model, the same in every process, and one for all tasks of a process."""
        return _model(self.shape, self.layers)

    @cached_property
    def nodes(self) -> list[Node]:
        """Every layer's attention and MLP, in order of computation."""
        return [(kind, layer) for layer in range(self.model.config.num_hidden_layers) for kind in ("attn", "mlp")]

    @cached_property
    def ids(self) -> torch.Tensor:
        """Token ids [prompt, position]."""
        rng = np.random.default_rng(0)
        return torch.from_numpy(rng.integers(0, self.model.config.vocab_size, (self.prompts, self.tokens)))

    @cached_property
    def donor_index(self) -> np.ndarray:
        """Donors [prompt, donor] as indices of prompts."""
        rng = np.random.default_rng(1)
        others = [[other for other in range(self.prompts) if other != prompt] for prompt in range(self.prompts)]
        return np.stack([rng.choice(row, self.donors, replace=self.donors > len(row)) for row in others])

    def path(self, node: Node) -> str:
        """Return the path of the module that puts out a node's contribution."""
        shape = SHAPES[self.shape]
        return (shape.attn if node[0] == "attn" else shape.mlp).format(node[1])

    @cached_property
    def batches(self) -> list[slice]:
        """Prompts that are run together, with all their donors."""
        step = max(1, BATCH_TOKENS // (self.donors * self.tokens))
        return [slice(start, min(start + step, self.prompts)) for start in range(0, self.prompts, step)]

    def rows(self, batch: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch's rows: ids [prompt · donor, position], and the index of each row's donor."""
        rows = self.ids[batch].repeat_interleave(self.donors, 0)
        return rows, torch.from_numpy(self.donor_index[batch].reshape(-1))

    @cached_property
    def readout(self) -> "Readout":
        """How effects are read off logits and outputs, from one plain forward of the prompts."""
        return Readout.of(self)


@dataclass(frozen=True, eq=False)
class Readout:
    """The natural world's readout: target tokens, their centred logits, and the linear form of direct effects."""

    targets: torch.Tensor
    clean: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def of(cls, task: Task) -> "Readout":
        """Run the prompts and read the final norm's scale off its input."""
        model, seen = task.model, []
        norm = reach(model, SHAPES[task.shape].norm)
        handle = norm.register_forward_hook(lambda _module, args, _output: seen.append(args[0][:, -1]))
        with torch.no_grad():
            logits = model(task.ids, logits_to_keep=1).logits[:, -1]
        handle.remove()
        targets = logits.argmax(-1)
        unembedding = model.get_output_embeddings().weight
        weight = (unembedding[targets] - unembedding.mean(0)) * norm.weight
        stream = seen[0]
        if isinstance(norm, torch.nn.LayerNorm):
            weight, stream = (x - x.mean(-1, keepdim=True) for x in (weight, stream))
            eps = norm.eps
        else:
            eps = norm.variance_epsilon
        sigma = (stream.square().mean(-1, keepdim=True) + eps).sqrt()
        clean = logits.gather(1, targets[:, None])[:, 0] - logits.mean(-1)
        return cls(targets, clean, weight / sigma)

    def read(
        self, task: Task, batch: slice, node: Node, logits: torch.Tensor, outputs: Mapping[Node, torch.Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the total effect [prompt, donor] and the direct effects [prompt, donor, node] downstream of a node.

        Parameters
        ----------
        task, batch, node
            What was run: the prompts ``batch`` with all their donors, ``node`` set.
        logits
            At the last position, [prompt · donor, vocab].
        outputs
            What each node put out at the last position, [prompt · donor, d_model].
        """
        count = len(range(*batch.indices(task.prompts)))
        token = self.targets[batch].repeat_interleave(task.donors)
        value = logits.gather(1, token[:, None])[:, 0] - logits.mean(-1)
        total = value.view(count, task.donors) - self.clean[batch, None]
        direct = np.full((count, task.donors, len(task.nodes)), np.nan, np.float32)
        for place in range(task.nodes.index(node), len(task.nodes)):
            one = outputs[task.nodes[place]].reshape(count, task.donors, -1)
            direct[:, :, place] = torch.einsum("pkd,pd->pk", one, self.weight[batch]).numpy()
        return total.numpy(), direct


@dataclass(frozen=True, eq=False)
class Steps:
    """How a tool does the sweep.

    Parameters
    ----------
    each
        Sets one node in one batch of prompts: total and direct effects as :meth:`Readout.read` gives them.
        The natural runs it needs are made by ``first``.
    first
        Runs the prompts as they are and keeps what the donors give.
    whole
        For a tool that does the sweep in one piece: total effects [prompt, node, donor] and direct effects
        [prompt, node, donor, node].
    """

    first: Callable[[], None] = lambda: None
    each: Callable[[Node, slice], tuple[np.ndarray, np.ndarray]] | None = None
    whole: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None


@dataclass
class Result:
    """What was measured of one tool on one task; arrays hold NaN where nothing was measured."""

    seconds: float
    measured: int
    units: int
    peak: int
    total: np.ndarray
    direct: np.ndarray
    extra: dict[str, float] = field(default_factory=dict)

    def save(self, path: Any) -> None:
        """Write the result, for the process that compares."""
        numbers = {"seconds": self.seconds, "measured": self.measured, "units": self.units, "peak": self.peak}
        np.savez(path, total=self.total, direct=self.direct, **numbers, **self.extra)

    @classmethod
    def load(cls, path: Any) -> "Result":
        """Read a result written by :meth:`save`."""
        known = ("seconds", "measured", "units", "peak")
        with np.load(path) as found:
            numbers = {name: found[name].item() for name in found.files if found[name].ndim == 0}
            arrays = {name: found[name] for name in ("total", "direct")}
        extra = {name: value for name, value in numbers.items() if name not in known}
        return cls(**{name: numbers[name] for name in known}, **arrays, extra=extra)


def spread(units: Sequence[tuple[Node, slice]]) -> list[tuple[Node, slice]]:
    """Return units in an order in which any beginning is a fair sample."""
    order = np.random.default_rng(0).permutation(len(units))
    return [units[int(place)] for place in order]
