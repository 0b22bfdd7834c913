"""Train an embedded model: ``python -m causalnet.demo.train --arm plain --out runs/plain``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from causalnet.demo import ARMS
from causalnet.demo.batches import Batch, Example, encode, epoch_batches
from causalnet.demo.evaluate import recalled
from causalnet.demo.facts import World, build_world
from causalnet.demo.network import TrainingForward, build_model, draw_keep
from causalnet.demo.tokenizer import build_tokenizer

__all__ = ["Recipe", "Trainer", "main", "recipe_of"]

DROP_RATES = {"plain": 0.0, "dropped": 0.4}
_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the trained weights, up to rounding.

    Attributes
    ----------
    arm : str
        The model's name.
    drop : float
        The probability that a sentence loses a given layer's attention output.
    steps : int
        The number of steps.
    warmup, horizon, cooldown : int
        The learning rate rises linearly for `warmup` steps, then follows a half cosine
        that would end at `horizon`; in the last `cooldown` steps it is also scaled
        linearly to zero. So a run can be ended early, once recall is high, and still
        settle.
    learning_rate, weight_decay, clip : float
        AdamW's, with betas 0.9 and 0.98, and the largest gradient norm.
    rows, row_width : int
        The shape of a batch, in tokens.
    layers, width : int
        The shape of the network.
    subjects_per_kind : int
        The size of the world.
    seed : int
        The seed of the initial weights, the order of sentences and the dropped layers.
    """

    arm: str
    drop: float
    steps: int = 3300
    warmup: int = 200
    horizon: int = 6000
    cooldown: int = 600
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    rows: int = 32
    row_width: int = 64
    layers: int = 8
    width: int = 128
    subjects_per_kind: int = 520
    seed: int = 1

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.horizon - self.warmup, 1)
        cosine = 0.02 + 0.98 * (1 + cos(pi * min(done, 1.0))) / 2
        return self.learning_rate * cosine * min(1.0, (self.steps - step) / self.cooldown)


def recipe_of(arm: str) -> Recipe:
    """Return the released recipe of an arm; the arms differ in `drop` alone.

    Examples
    --------
    >>> recipe_of("plain").drop
    0.0
    """
    return Recipe(arm, DROP_RATES[arm])


class Trainer:
    """One training run, which can be saved and resumed at any step.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    folder : pathlib.Path
        Where checkpoints are written: weights and AdamW's moments as safetensors, the
        rest as JSON.
    compile : bool
        Whether to compile the forward pass.
    autocast : bool
        Whether to compute in bfloat16 where that is safe.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, compile: bool = True, autocast: bool = True) -> None:
        self.recipe = recipe
        self.folder = folder
        self.world: World = build_world(subjects_per_kind=recipe.subjects_per_kind)
        self.tokenizer = build_tokenizer(self.world)
        self.examples: list[Example] = encode(self.world.training(), self.tokenizer)
        self.model: LlamaForCausalLM = build_model(
            len(self.tokenizer), seed=recipe.seed, layers=recipe.layers, width=recipe.width
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        forward = TrainingForward(self.model)
        self._forward = torch.compile(forward, dynamic=False) if compile else forward
        self._autocast = autocast
        self.epoch, self.batch, self.step, self.seconds = 0, 0, 0, 0.0
        self.recall: list[dict[str, float]] = []

    def train(self, steps: int, *, evaluate_every: int = 300, log_every: int = 50) -> None:
        """Train for some steps more, saving and measuring recall on the way.

        Parameters
        ----------
        steps : int
            How many, at most up to the end of the schedule.
        evaluate_every : int
            Recall is measured and a checkpoint saved after each so many steps.
        log_every : int
            Loss and speed are written to stderr after each so many steps.
        """
        end = min(self.step + steps, self.recipe.steps)
        if self.step >= end:
            return
        started, first = time.perf_counter(), self.step
        losses: list[torch.Tensor] = []
        for batch in self._batches():
            losses.append(self._update(batch))
            self.step += 1
            self.batch += 1
            if self.step % log_every == 0:
                loss = torch.stack(losses).mean().item()
                losses = []
                speed = (self.step - first) / (time.perf_counter() - started)
                _log(f"step {self.step} loss {loss:.4f} {speed:.2f} steps/s")
            if self.step % evaluate_every == 0 or self.step == end:
                self.seconds += time.perf_counter() - started
                self.measure()
                self.save()
                started, first = time.perf_counter(), self.step
            if self.step == end:
                return

    def measure(self) -> None:
        """Measure recall on a sample of seen and on all held-out phrasings."""
        self.model.eval()
        held_out = self.world.held_out()
        seen = [s for s in self.world.training() if s.phrasing.answer_last][::10]
        row = {"step": float(self.step), "minutes": self.seconds / 60}
        for name, statements in (("held_out", held_out), ("seen", seen)):
            right = recalled(self.model, self.tokenizer, statements)
            row[name] = sum(right) / max(len(right), 1)
        self.recall.append(row)
        self.model.train()
        _log(" ".join(f"{name} {value:.4f}" for name, value in row.items()))

    def save(self) -> None:
        """Write a checkpoint into the folder, replacing the last one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weight/{k}": v.detach() for k, v in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value
        state = {
            "recipe": asdict(self.recipe),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "seconds": self.seconds,
            "recall": self.recall,
        }
        # Each file is replaced whole, and the step stands in both, so that an
        # interruption between the two is noticed and not resumed from.
        _replace(self.folder / "state.safetensors", tensors, {"step": str(self.step)})
        path = self.folder / "state.json"
        path.with_suffix(".part").write_text(json.dumps(state, indent=1), encoding="utf-8")
        path.with_suffix(".part").replace(path)

    def resume(self) -> None:
        """Go on from the folder's checkpoint.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it belongs to another recipe, or its two files to different steps.
        """
        state: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"the checkpoint in {self.folder} was made with another recipe")
        tensors = load_file(self.folder / "state.safetensors")
        for name, parameter in self.model.named_parameters():
            with torch.no_grad():
                parameter.copy_(tensors[f"weight/{name}"])
            self.optimizer.state[parameter] = {
                key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
        steps = {int(tensors[k]) for k in tensors if k.startswith("step/")}
        if steps != {state["step"]}:
            raise ValueError(f"the checkpoint in {self.folder} is torn: steps {steps} and {state['step']}")
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.seconds, self.recall = state["seconds"], state["recall"]

    def _batches(self) -> Iterator[Batch]:
        """Yield batches for ever, from where the run stands."""
        while True:
            seed = self.recipe.seed * 1_000_003 + self.epoch
            batches = epoch_batches(self.examples, rows=self.recipe.rows, width=self.recipe.row_width, seed=seed)
            yield from islice(batches, self.batch, None)
            self.epoch, self.batch = self.epoch + 1, 0

    def _update(self, batch: Batch) -> torch.Tensor:
        """Take one step and return its loss."""
        recipe = self.recipe
        keep = draw_keep(
            batch,
            layers=recipe.layers,
            drop=recipe.drop,
            seed=recipe.seed * 1_000_003 + self.step,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        context = torch.autocast("cpu", dtype=torch.bfloat16) if self._autocast else nullcontext()
        with context:
            loss = self._forward(batch.tokens, batch.positions, batch.mask(), keep, batch.targets, batch.weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def _replace(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file and move it over the old one."""
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata=metadata)
    part.replace(path)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m causalnet.demo.train",
        description="Train one embedded model on the closed world of facts.",
        epilog=(
            "examples:\n"
            "  python -m causalnet.demo.train --arm plain --out runs/plain\n"
            "  python -m causalnet.demo.train --arm dropped --out runs/dropped --resume\n"
            "  python -m causalnet.demo.train --arm plain --out runs/short --steps 200\n"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arm", choices=ARMS, required=True, help="which model to train")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, help="number of steps (default: the released recipe's)")
    parser.add_argument("--drop", type=float, help="drop probability (default: the arm's)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--no-compile", action="store_true", help="do not compile the forward pass")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = recipe_of(options.arm)
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps, cooldown=min(recipe.cooldown, max(options.steps // 5, 1)))
    if options.drop is not None:
        recipe = replace(recipe, drop=options.drop)
    trainer = Trainer(recipe, options.out, compile=not options.no_compile)
    if options.resume:
        trainer.resume()
    trainer.train(recipe.steps)
    return 0


def _with_large_arenas() -> None:
    """Start again with an allocator that keeps its memory, where it is glibc's.

    Freed pages handed back to the system and faulted in again at every step can cost more
    than the arithmetic. The variables are read when a process starts.
    """
    if sys.platform == "linux" and any(os.environ.get(k) != v for k, v in _MEMORY.items()):
        os.environ.update(_MEMORY)
        os.execv(sys.executable, [sys.executable, "-m", "causalnet.demo.train", *sys.argv[1:]])


if __name__ == "__main__":
    _with_large_arenas()
    sys.exit(main())
