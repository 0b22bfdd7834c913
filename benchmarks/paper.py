"""The Hydra paper's full sweep: every layer of a 7B model, 15 donors, the 1,209 prompts of known_1000.

McGrath et al. (2023).  On a CUDA device a model of Llama-2-7B's shape with random bfloat16 weights; without
one a scaled-down shape in float32.  Prompts are random tokens of the lengths that known_1000 has with GPT-2's
tokenizer: the arithmetic is what counts.

    python benchmarks/paper.py --write                       # what the machine allows
    python benchmarks/paper.py --shape llama-2-7b --prompts 100     # a part
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, flop, peak_memory, products_seconds, reset_peak_memory, weight_shapes
from results import RESULTS, put
from transformers import LlamaConfig

from causalnet.effects.record import run_record
from causalnet.effects.sweep import cells, plan_sweep, sweep
from causalnet.engine.plain import run_plain
from causalnet.engine.plan import Reading
from causalnet.engine.sources import Inputs
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.values import RESAMPLE
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.model.mechanism import Mechanisms
from causalnet.model.shrink import build

__all__ = ["TITLE"]

TITLE = "The paper's full sweep (benchmarks/paper.py): {}"
LENGTHS = Path(__file__).with_name("known_1000_lengths.json")


@dataclass(frozen=True)
class Shape:
    """A model's size, how many prompts it is given, and where it runs."""

    width: int
    inner: int
    layers: int
    heads: int
    prompts: int
    device: str
    dtype: torch.dtype

    def build(self) -> Any:
        """Return a Llama of this size with random weights."""
        config = LlamaConfig(
            vocab_size=32000, hidden_size=self.width, intermediate_size=self.inner, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.heads, max_position_embeddings=4096,
        )  # fmt: skip
        torch.manual_seed(0)
        return build(config, dtype=self.dtype, device=self.device).requires_grad_(False)


SHAPES = {
    "llama-2-7b": Shape(4096, 11008, 32, 32, 1209, "cuda", torch.bfloat16),
    "scaled-down": Shape(512, 1376, 8, 8, 240, "cpu", torch.float32),
}


def make_inputs(vocab: int, prompts: int, donors: int) -> Inputs:
    """Return random prompts of known_1000's lengths in random order, and distinct donors from the other prompts."""
    counts = json.loads(LENGTHS.read_text(encoding="utf-8"))["prompts"]
    rng = np.random.default_rng(0)
    lengths = rng.permutation([int(length) for length, count in counts.items() for _ in range(count)])[:prompts]
    ids = tuple(tuple(int(token) for token in rng.integers(0, vocab, length)) for length in lengths)
    drawn = rng.random((prompts, prompts))
    np.fill_diagonal(drawn, 2.0)  # never the prompt itself
    return Inputs(ids, donors=drawn.argsort(1)[:, :donors])


def by_plain_forwards(mechanisms: Mechanisms, inputs: Inputs, te: np.ndarray, nodes: list[Node]) -> str:
    """Return how far some counterfactuals are from plain full forwards with hooks: three prompts, two donors each."""
    outcome, places = Outcome("logit", (TARGET,)), [0, len(nodes) // 2, len(nodes) - 2]
    found = cells(mechanisms.graph, [nodes[place] for place in places], RESAMPLE)
    gaps = []
    assert inputs.donors is not None
    for prompt in range(3):
        pool = Inputs(tuple(inputs.ids[donor] for donor in inputs.donors[prompt, :2]))
        few = Inputs((inputs.ids[prompt],), pool=pool, donors=np.array([[0, 1]]))
        plain = run_plain(mechanisms, plan_sweep(mechanisms, found, few), few)
        natural = next(values for reading, values in plain.items() if not reading.world and reading.outcome == outcome)
        for place, cell in zip(places, found, strict=True):
            gaps.append(plain[Reading(cell.world, outcome)][0] - natural[0, 0] - te[prompt, place, :2])
    return f"{np.abs(gaps).max():.1e} logits"


def measure(name: str, prompts: int | None, donors: int) -> str:
    """Run the sweep and return its section of the results."""
    shape = SHAPES[name]
    mechanisms = compile_model(shape.build(), name=name)
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    inputs = make_inputs(mechanisms.vocab, prompts or shape.prompts, donors)
    few = make_inputs(mechanisms.vocab, donors + 1, donors)
    run_sweep(mechanisms, few, nodes)  # warm
    gpu = shape.device == "cuda"
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    reset_peak_memory()
    started = time.perf_counter()
    found = run_sweep(mechanisms, inputs, nodes)
    seconds = time.perf_counter() - started
    memory = {"of the device": torch.cuda.max_memory_allocated()} if gpu else {}
    memory["of the process"] = peak_memory()
    rows, tokens = len(inputs.ids) * donors, sum(map(len, inputs.ids))
    shapes = [weight_shapes([mechanisms.mechanism(node).source]) for node in nodes]
    work = flop(shapes, rows, tokens)
    ideal = products_seconds(shapes, rows, tokens, device=shape.device, dtype=shape.dtype)
    te = found["te"].values
    lines = [
        f"{describe(shape.device)}, torch {torch.__version__}; {str(shape.dtype).removeprefix('torch.')}, "
        f"d_model {shape.width}, {shape.layers} layers, random weights.",
        "",
        "| | |",
        "|---|---|",
        f"| counterfactuals | {len(inputs.ids):,} prompts × {len(nodes)} nodes × {donors} donors = {te.size:,} |",
        f"| time | {seconds:.1f} s |",
        f"| arithmetic (products with the layers' weights) | {work:.2e} FLOP, {work / seconds / 1e12:.3g} TFLOP/s |",
        f"| speed of `torch.mm` on the same shapes | {work / ideal / 1e12:.3g} TFLOP/s |",
        f"| share of it | {100 * ideal / seconds:.0f} % |",
        *(f"| peak memory {what} | {size / 2**30:.1f} GiB |" for what, size in memory.items()),
        f"| total effects (rms) | {rms(te):.3g} logits |",
        f"| closure residual of TE = DE + CE + NORM (rms) | {rms(found['residual'].values):.1e} logits |",
        f"| largest difference to plain full forwards (3 prompts × 3 nodes × 2 donors) | "
        f"{by_plain_forwards(mechanisms, inputs, te, nodes)} |",
    ]
    return "\n".join(lines)


def rms(values: np.ndarray) -> float:
    """Return the root mean square of what is not missing."""
    return float(np.sqrt(np.nanmean(np.square(values, dtype=np.float64))))


def run_sweep(mechanisms: Mechanisms, inputs: Inputs, nodes: list[Node]) -> Any:
    """Return the sweep's dataset: total effects and every downstream direct effect."""
    texts = [f"prompt {index}" for index in range(len(inputs.ids))]
    record = run_record(mechanisms, seed=0, given={"prompts": len(texts), "donors": inputs.count}, defaulted={})
    return sweep(mechanisms, inputs, nodes, RESAMPLE, texts=texts, decode=str, record=record)


def main() -> None:
    """Run the sweep, print what was measured, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "llama-2-7b" if torch.cuda.is_available() else "scaled-down"
    parser.add_argument("--shape", choices=list(SHAPES), default=default)
    parser.add_argument("--prompts", type=int, help="use so many prompts instead of all")
    parser.add_argument("--donors", type=int, default=15)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    body = measure(given.shape, given.prompts, given.donors)
    print(body)
    if given.write:
        put(TITLE.format(given.shape), body)


if __name__ == "__main__":
    main()
