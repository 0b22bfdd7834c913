"""What a study costs past one machine: the overhead of workers, the cost of a chunk, and what that says of 70B.

python benchmarks/scale.py --write                # on a quiet machine, a few minutes
python benchmarks/scale.py --only overhead
python benchmarks/scale.py --only large --share 0.4 --bandwidth 2e9
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from machine import describe, flop, weight_shapes
from results import RESULTS, put
from transformers import LlamaConfig

from causalnet.demo import model_path, prompts_path
from causalnet.engine.crew import Executor, Here
from causalnet.prompts import Prompts
from causalnet.studies.hydra import Arm, Options, hydra
from causalnet.studies.models import Models
from causalnet.studies.store import create, write
from causalnet.studies.subjects import subject
from causalnet.studies.sweeps import Job, Question, compute, job

PLAIN = str(model_path("plain"))
_CHUNK = 1 << 17
"""Counterfactuals of a chunk, as many as the study's own plan makes."""


# -- the overhead of workers ---------------------------------------------------------------------------


@dataclass
class Times:
    """When the first chunk was at work, when the last was done, and when everything was."""

    begun: float = 0.0
    worked: float = 0.0
    whole: float = 0.0


def timed(executor: Executor, chunk: int, prompts: Prompts) -> tuple[Times, int]:
    """Run the embedded study once; return its times and its number of chunks."""
    found, chunks, started = Times(), [0], time.perf_counter()

    def progress(what: str, done: int, total: int) -> None:
        now = time.perf_counter() - started
        if what.startswith("plain") and not found.begun:
            found.begun, chunks[0] = now, total // 1000
        if what == "figures and report" and not done:
            found.worked = now

    with tempfile.TemporaryDirectory() as folder:
        options = Options(chunk=chunk)
        hydra(
            [Arm("", PLAIN)], prompts, options=options, out=Path(folder) / "run", progress=progress, executor=executor
        )
    found.whole = time.perf_counter() - started
    return found, chunks[0]


def overhead() -> str:
    """Return the section that compares workers with one process."""
    from causalnet.interop.ray import Ray

    prompts = Prompts.from_file(prompts_path())
    ways: dict[str, Callable[[], Executor]] = {
        "one process": Here, "Ray, 1 worker": lambda: Ray(workers=1), "Ray, 2 workers": lambda: Ray(workers=2),
    }  # fmt: skip
    timed(Here(), 200, prompts.take(64))  # warm
    lines = [
        f"{describe()}, torch {torch.__version__}; the embedded model, {len(prompts)} prompts, 16 nodes, 15 donors. "
        "*Chunks* is from when they are handed out to the last one, *whole* everything: the cluster's start, "
        "loading, planning, figures and report.",
        "",
        "| prompts per chunk | number | | chunks | against one process | whole | against one process |",
        "|---|---|---|---|---|---|---|",
    ]
    for chunk in (25, 100, 275):
        base: Times | None = None
        for name, make in ways.items():
            found, count = timed(make(), chunk, prompts)
            base = found if base is None else base
            work, whole = found.worked - found.begun, found.whole
            ratios = [work / (base.worked - base.begun), whole / base.whole]
            lines.append(
                f"| {chunk} | {count} | {name} | {work:.1f} s | {ratios[0]:.2f}× | {whole:.1f} s | {ratios[1]:.2f}× |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


# -- the cost of a chunk -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One chunk: its arithmetic, its bytes, and the seconds that computing and writing took."""

    flop: float
    bytes: int
    compute: float
    write: float


def chunks_of(one: Job) -> Iterator[Measured]:
    """Compute and write the chunks of a job, each of another size."""
    mechanisms, spent = one.subject.mechanisms, one.subject.encoded.lengths
    shapes = [weight_shapes([mechanisms.mechanism(cell.node).source]) for cell in one.cells]
    with tempfile.TemporaryDirectory() as folder:
        for count in (10, 20, 40, 80, 160, 240):
            plan = replace(one.plan, prompt_step=count)
            path = Path(folder) / f"{count}.zarr"
            create(path, one.labels(), plan)
            for number, chunk in enumerate(list(plan)[:3]):
                started = time.perf_counter()
                arrays = compute(one, chunk)
                middle = time.perf_counter()
                write(path, chunk, arrays)
                ended = time.perf_counter()
                if number == 0:
                    continue  # warm
                donors = np.unique(one.donor_index[slice(*chunk.prompts)])
                tokens = sum(spent[slice(*chunk.prompts)]) + sum(spent[donor] for donor in donors if donor >= 0)
                work = flop(shapes, count * one.draws, tokens)
                size = sum(array.nbytes for array in arrays.values())
                yield Measured(work, size, middle - started, ended - middle)


def fitted(found: list[Measured], x: str, y: str) -> tuple[float, float, float]:
    """Return seconds per chunk, seconds per unit, and R² of ``y`` on ``x``; all chunks count alike."""
    size, seconds = (np.array([getattr(one, name) for one in found], dtype=float) for name in (x, y))
    weight = 1 / seconds
    design = np.stack([np.ones_like(size), size], axis=1)
    fixed, each = np.linalg.lstsq(design * weight[:, None], seconds * weight, rcond=None)[0]
    misfit = np.square((seconds - fixed - each * size) * weight).sum()
    mean = np.average(seconds, weights=weight**2)
    return float(fixed), float(each), float(1 - misfit / np.square((seconds - mean) * weight).sum())


def costs() -> tuple[str, float]:
    """Return the section with the cost of a chunk, fitted to measured ones, and the fixed seconds of computing one."""
    prompts = Prompts.from_file(prompts_path()).take(960)
    options = Options()
    loaded = Models(options).take(PLAIN, "")
    held = subject(loaded.mechanisms, loaded.tokenizer, prompts, options)
    found = [*chunks_of(job(held, Question(), options)), *chunks_of(job(held, Question("zero"), options))]
    lines = [
        f"{describe()}, torch {torch.__version__}; {len(found)} chunks of 10 to 240 prompts of the embedded model, "
        "resampled and zeroed.",
        "",
        "| | per chunk | per unit | R² |",
        "|---|---|---|---|",
    ]
    for what, x, y, unit in (
        ("computing", "flop", "compute", "GFLOP/s"),
        ("writing", "bytes", "write", "MB/s"),
    ):
        fixed, each, r2 = fitted(found, x, y)
        scale = 1e-9 if unit == "GFLOP/s" else 1e-6
        lines.append(f"| {what} | {1000 * fixed:.0f} ms | {scale / each:.3g} {unit} | {r2:.3f} |")
    return "\n".join(lines), max(0.0, fitted(found, "flop", "compute")[0])


# -- what it says of a large model ---------------------------------------------------------------------


@dataclass(frozen=True)
class Large:
    """A study that outgrows a machine, and what the machines are assumed to do."""

    config: LlamaConfig
    prompts: int
    donors: int
    tokens: int
    peak: float
    share: float
    bandwidth: float
    fixed: float
    gpus_per_worker: int

    @property
    def layer(self) -> tuple[float, float]:
        """Weights of a layer's attention and of its MLP."""
        c = self.config
        head = c.hidden_size // c.num_attention_heads
        attention = c.hidden_size * head * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
        return float(attention), 3.0 * c.hidden_size * c.intermediate_size

    @property
    def weights(self) -> float:
        """Bytes of the model in bfloat16."""
        c = self.config
        return 2 * (c.num_hidden_layers * sum(self.layer) + 2 * c.vocab_size * c.hidden_size)

    def row(self, kind: str) -> float:
        """Arithmetic of one counterfactual of every node of a kind: each goes through what lies after it."""
        (attention, mlp), layers = self.layer, self.config.num_hidden_layers
        later = (layers * (layers - 1) // 2) * (attention + mlp)
        return 2 * (later + layers * mlp if kind == "attn" else later)

    def sweep(self, heads: bool) -> tuple[float, int, int]:
        """Return arithmetic, bytes of the store and nodes of a sweep over all layers, or over all heads."""
        c = self.config
        natural = 2 * c.num_hidden_layers * sum(self.layer) * self.tokens * self.prompts
        if heads:
            nodes = c.num_hidden_layers * c.num_attention_heads
            each, responders = c.num_attention_heads * self.row("attn"), nodes + c.num_hidden_layers
        else:
            nodes = responders = 2 * c.num_hidden_layers
            each = self.row("attn") + self.row("mlp")
        cells = self.prompts * nodes * self.donors
        # Natural runs of a chunk's prompts and of their donors, hardly any of which two of its prompts share.
        return self.prompts * self.donors * each + (1 + self.donors) * natural, 4 * cells * (responders + 5), nodes

    def hours(self, gpus: int, heads: bool) -> list[float]:
        """Return the hours of loading, of computing all chunks and of writing them, with so many GPUs."""
        workers = gpus // self.gpus_per_worker
        work, size, _ = self.sweep(heads)
        chunks = self.prompts * self.sweep(heads)[2] * self.donors / _CHUNK
        seconds = (
            self.weights / self.bandwidth,
            # The layers of a model that is spread over a worker's GPUs run one after the other: one GPU works.
            work / (workers * self.peak * self.share) + chunks * self.fixed / workers,
            size / (workers * self.bandwidth),
        )
        return [one / 3600 for one in seconds]


def large(share: float, bandwidth: float, fixed: float) -> str:
    """Return the section with what the cost model says of Llama-70B."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8,
    )  # fmt: skip
    asked = Large(config, 10_000, 15, 16, 989e12, share, bandwidth, fixed, 4)
    lines = [
        f"Computed, not measured. Assumed: bfloat16 products at {100 * share:.0f} % of an H100's 989 TFLOP/s, "
        f"{bandwidth / 1e9:g} GB/s between a worker and the store, {asked.gpus_per_worker} GPUs per worker (one of "
        f"which works at a time), {asked.tokens} tokens per prompt, {1000 * fixed:.0f} ms per chunk of {_CHUNK:,} "
        f"counterfactuals. Weights: {asked.weights / 1e9:.0f} GB, read once by each worker.",
        "",
        "| sweep | donors | arithmetic | store | GPUs | loading | computing | writing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, one, heads in (
        ("160 layers × 10,000 prompts", asked, False),
        ("5,120 heads × 10,000 prompts", asked, True),
        ("5,120 heads × 100 prompts", replace(asked, prompts=100, donors=3), True),
    ):
        work, size, _ = one.sweep(heads)
        for gpus in (8, 64, 512):
            spent = " | ".join(_time(hours) for hours in one.hours(gpus, heads))
            lines.append(f"| {what} | {one.donors} | {work:.1e} FLOP | {_size(size)} | {gpus} | {spent} |")
    return "\n".join(lines)


def _time(hours: float) -> str:
    for unit, size in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{3600 * hours:.2g} s"


def _size(count: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["overhead", "costs", "large"])
    parser.add_argument("--share", type=float, default=0.5, help="of the GPU's peak")
    parser.add_argument("--bandwidth", type=float, default=1e9, help="bytes per second between worker and store")
    parser.add_argument("--fixed", type=float, default=0.25, help="seconds of every chunk, where none are measured")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    fixed = given.fixed
    for name in ("overhead", "costs", "large"):
        if given.only not in (None, name):
            continue
        if name == "overhead":
            title, body = "Workers against one process", overhead()
        elif name == "costs":
            title = "The cost of a chunk"
            body, fixed = costs()
        else:
            title, body = "Llama-70B by the cost model", large(given.share, given.bandwidth, fixed)
        print(f"{title}\n\n{body}\n", flush=True)
        if given.write:
            put(f"{title} (benchmarks/scale.py)", body)


if __name__ == "__main__":
    main()
