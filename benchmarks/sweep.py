"""The layer sweep, side by side: causalnet's wavefront against batched plain hooks, in one run.

Both set every attention and MLP layer's output at the last token to that of 15 donors and read the total
effect and every downstream direct effect.  Weights are random; the arithmetic is what counts.

    python benchmarks/sweep.py                          # 16 tokens, GPT-2-small shape
    python benchmarks/sweep.py --tokens 16 64 --repeat 3
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from causalnet.effects.sweep import cells, plan_sweep
from causalnet.engine.plan import Reading
from causalnet.engine.run import run
from causalnet.engine.sources import Inputs
from causalnet.expr.outcomes import TARGET, Outcome
from causalnet.expr.refs import Component
from causalnet.expr.values import RESAMPLE
from causalnet.expr.world import NATURAL_WORLD
from causalnet.graph import Node
from causalnet.model.compile import compile_model
from causalnet.model.mechanism import Mechanisms
from causalnet.model.probe import hooked

RESULTS = Path(__file__).with_name("RESULTS.md")


def gpt2_small() -> torch.nn.Module:
    """A model of GPT-2-small's shape with random weights."""
    return GPT2LMHeadModel(GPT2Config())


def llama_small() -> torch.nn.Module:
    """A Llama of about the same size, with grouped-query attention."""
    config = LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=4,
    )  # fmt: skip
    return LlamaForCausalLM(config)


SHAPES = {"gpt2-small": gpt2_small, "llama-small": llama_small}


def make_inputs(vocab: int, prompts: int, tokens: int, donors: int) -> Inputs:
    """Random prompts of one length; each prompt's donors are drawn from the others, with replacement."""
    rng = np.random.default_rng(0)
    ids = tuple(tuple(int(token) for token in row) for row in rng.integers(0, vocab, (prompts, tokens)))
    others = [[other for other in range(prompts) if other != prompt] for prompt in range(prompts)]
    return Inputs(ids, donors=np.stack([rng.choice(row, donors) for row in others]))


def by_wavefront(mechanisms: Mechanisms, inputs: Inputs, nodes: list[Node]) -> tuple[np.ndarray, np.ndarray]:
    """Total effects [prompt, node, donor] and direct effects [prompt, node, donor, node] by causalnet."""
    found = cells(mechanisms.graph, nodes, RESAMPLE)
    trace = run(mechanisms, plan_sweep(mechanisms, found, inputs), inputs)
    outcome = Outcome("logit", (TARGET,))
    total = np.stack([trace[Reading(cell.world, outcome)] for cell in found], 1) - trace[
        Reading(NATURAL_WORLD, outcome)
    ][:, None]
    direct = np.full((*total.shape, len(nodes)), np.nan)
    for row, cell in enumerate(found):
        for node in (cell.node, *cell.responders):
            reading = Reading(cell.world, Outcome("direct", (TARGET,), Component.of(node)), (node,))
            direct[:, row, :, nodes.index(node)] = trace[reading]
    return total, direct


def by_hooks(mechanisms: Mechanisms, inputs: Inputs, nodes: list[Node]) -> tuple[np.ndarray, np.ndarray]:
    """The same by plain hooks: one full forward of all prompts × donors for each node."""
    assert inputs.donors is not None
    ids = torch.tensor(inputs.ids)
    prompts, draws = inputs.donors.shape
    modules = {node: mechanisms.mechanism(node).source for node in nodes}
    readout = mechanisms.readout

    def forward(tokens: torch.Tensor, node: Node | None = None, value: torch.Tensor | None = None):
        seen: dict[Node, torch.Tensor] = {}
        final: list[torch.Tensor] = []

        def hook(one: Node) -> Callable[[torch.Tensor], torch.Tensor | None]:
            def keep(output: torch.Tensor) -> torch.Tensor | None:
                if one == node:
                    output = output.clone()
                    output[:, -1] = value
                seen[one] = output[:, -1]
                return output if one == node else None

            return keep

        with hooked() as hooks, torch.no_grad():
            for one, module in modules.items():
                hooks.on_output(module, hook(one))
            hooks.on_input(readout.norm.module, lambda hidden: final.append(hidden[:, -1]))
            logits = mechanisms.hf(tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits, seen, final[0]

    logits, donated, stream = forward(ids)
    targets = logits.argmax(-1)
    directions = readout.directions(targets)
    sigma = readout.norm.sigma(stream)
    clean = logits.gather(1, targets[:, None])[:, 0] - logits.mean(-1)
    rows = ids.repeat_interleave(draws, 0)
    weight, scale = directions.weight.repeat_interleave(draws, 0), sigma.repeat_interleave(draws)
    total = np.empty((prompts, len(nodes), draws))
    direct = np.full((prompts, len(nodes), draws, len(nodes)), np.nan)
    which = torch.as_tensor(inputs.donors).reshape(-1)
    for row, node in enumerate(nodes):
        logits, seen, _ = forward(rows, node, donated[node][which])
        token = targets.repeat_interleave(draws)
        value = logits.gather(1, token[:, None])[:, 0] - logits.mean(-1)
        total[:, row] = value.view(prompts, draws).numpy() - clean[:, None].numpy()
        for place, other in enumerate(nodes):
            if other == node or other in mechanisms.graph.descendants(node):
                found = (seen[other] * weight).sum(-1) / scale
                direct[:, row, :, place] = found.view(prompts, draws).numpy()
    return total, direct


def matmul_speed(width: int, inner: int, rows: int) -> float:
    """Return FLOP/s of the machine's matrix product on the MLP's shapes."""
    x, w = torch.randn(rows, width), torch.randn(width, inner)
    out = torch.empty(rows, inner)
    torch.mm(x, w, out=out)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        torch.mm(x, w, out=out)
        count += 1
    return count * 2 * rows * width * inner / (time.perf_counter() - started)


def best_of(repeat: int, work: Callable[[], object]) -> tuple[float, object]:
    """Return the least seconds of ``repeat`` runs, and the last result."""
    times, result = [], None
    for _ in range(repeat):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return min(times), result


def measure(shape: str, tokens: int, prompts: int, donors: int, repeat: int) -> str:
    """Measure one shape and return its row of the table."""
    torch.manual_seed(0)
    model = SHAPES[shape]().eval().requires_grad_(False)
    mechanisms = compile_model(model, name=shape)
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    inputs = make_inputs(mechanisms.vocab, prompts, tokens, donors)
    by_wavefront(mechanisms, inputs, nodes)  # warm
    fast, ours = best_of(repeat, lambda: by_wavefront(mechanisms, inputs, nodes))
    slow, theirs = best_of(1, lambda: by_hooks(mechanisms, inputs, nodes))
    gap = max(float(np.nanmax(np.abs(a - b))) for a, b in zip(ours, theirs, strict=True))  # type: ignore[call-overload]
    flops = row_flops(mechanisms, len(inputs.ids), donors)
    speed = flops / fast / matmul_speed(mechanisms.width, 4 * mechanisms.width, 1024)
    return f"| {shape} | {tokens} | {fast:.2f} s | {slow:.1f} s | {slow / fast:.0f}× | {gap:.0e} | {100 * speed:.0f} % |"


def row_flops(mechanisms: Mechanisms, prompts: int, donors: int) -> float:
    """Return the arithmetic of the sweep's rows in the layers' weights (attention over the prefix left out)."""
    per_part = []
    for layer in mechanisms.layers:
        for part in layer:
            assert part.module is not None
            per_part.append(2.0 * sum(p.numel() for p in part.module.parameters() if p.dim() == 2))
    rows = prompts * donors
    return rows * sum(sum(per_part[place + 1 :]) for place in range(len(per_part)))


def main() -> None:
    """Run the benchmark and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["gpt2-small"], choices=sorted(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[16])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--donors", type=int, default=15)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    given = parser.parse_args()
    head = [
        f"Layer sweep: {given.prompts} prompts × all nodes × {given.donors} donors, float32, "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}",
        "",
        "| shape | tokens | causalnet | plain hooks | ratio | largest difference | share of matmul speed |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head))
    rows = []
    for shape in given.shapes:
        for tokens in given.tokens:
            rows.append(measure(shape, tokens, given.prompts, given.donors, given.repeat))
            print(rows[-1], flush=True)
    if given.write:
        RESULTS.write_text("# Measured\n\n" + "\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
