"""The layer sweep, side by side: the same counterfactuals by causalnet and by other tools, in one run.

Each tool sets every attention and MLP layer's output at the last token to that of each donor, and reads the
total effect and every downstream direct effect.  Weights are random; the arithmetic is what counts.  Every
tool runs in a process of its own, so that memory can be told apart.

    python benchmarks/sweep.py --write              # the whole table: about 10 minutes on 2 cores
    python benchmarks/sweep.py --full --write       # every intervention by every tool: hours
    python benchmarks/sweep.py --layers 2 --prompts 2 --donors 3 --tokens 8     # a quick look
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe
from results import RESULTS, put
from task import SHAPES, Result
from tools import TOOLS

__all__ = ["TITLE"]

TITLE = "The layer sweep, side by side (benchmarks/sweep.py)"
_VERSION = "import importlib.metadata as m; print(m.version('{}'))"
_PACKAGES = {"causalnet": "causalnet-transformers", "transformer_lens": "transformer-lens"}
_FIRST = "causalnet"
_PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"


@dataclass(frozen=True)
class Found:
    """Where a tool is installed, and its version; or why it cannot be run."""

    python: str = ""
    version: str = ""
    reason: str = ""


def find(needs: str, pythons: list[str]) -> Found:
    """Return the first interpreter that has a package."""
    for python in pythons:
        command = [python, "-c", _VERSION.format(_PACKAGES.get(needs, needs))]
        if Path(python).exists() and (done := subprocess.run(command, capture_output=True, text=True)).returncode == 0:
            return Found(python, done.stdout.strip())
    return Found(reason=f"{_PACKAGES.get(needs, needs)} is not installed")


def start(name: str, found: Found, shape: str, given: argparse.Namespace, folder: Path) -> str:
    """Measure one tool on one model in a process of its own; return why it failed, or an empty text."""
    worker = Path(__file__).with_name("worker.py")
    options = {
        "tool": name, "shape": shape, "prompts": given.prompts, "donors": given.donors, "repeat": given.repeat,
        "seconds": "inf" if given.full else given.seconds, "threads": given.threads, "out": folder,
    }  # fmt: skip
    if given.layers is not None:
        options["layers"] = given.layers
    command = [found.python, str(worker), *(f"--{key}={value}" for key, value in options.items())]
    command += ["--tokens", *map(str, given.tokens)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}  # nothing is fetched, however a tool loads its models
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, env=environment)
    if done.returncode == 0:
        return ""
    message = done.stderr.decode(errors="replace").strip().splitlines()
    return f"failed: {message[-1] if message else f'exit status {done.returncode}'}"


def difference(ours: Result, theirs: Result) -> float:
    """Return the largest difference of total and direct effects, wherever the other tool measured."""
    done = ~np.isnan(theirs.total)
    mine, other = ours.direct[done], theirs.direct[done]
    if (np.isnan(mine) != np.isnan(other)).any():
        return float("nan")  # one of the two left a direct effect out
    return float(max(np.abs(ours.total - theirs.total)[done].max(), np.nanmax(np.abs(mine - other))))


def row(title: str, theirs: Result, ours: Result | None) -> str:
    """Return a tool's row of the table."""
    part = "all" if theirs.measured == theirs.units else f"{theirs.measured} of {theirs.units}"
    ratio = gap = "–"
    if ours is not None and ours is not theirs:
        times = theirs.seconds / ours.seconds
        ratio, gap = f"{times:.0f}×" if times >= 10 else f"{times:.1f}×", f"{difference(ours, theirs):.0e}"
    share = f"{100 * theirs.extra['ideal'] / theirs.seconds:.0f} %" if "ideal" in theirs.extra else "–"
    time = f"{theirs.seconds:.2f} s" if theirs.seconds < 10 else f"{theirs.seconds:.0f} s"
    return f"| {title} | {time} | {ratio} | {part} | {theirs.peak / 2**30:.1f} GiB | {gap} | {share} |"


def table(shape: str, tokens: int, reasons: dict[str, str], titles: dict[str, str], folder: Path) -> list[str]:
    """Return the table of one model and one length of prompts."""
    files = {name: folder / f"{shape}-{tokens}-{name}.npz" for name in titles}
    results = {name: Result.load(path) for name, path in files.items() if path.exists()}
    ours = results.get(_FIRST)
    size = "" if ours is None else f"; total effects of size {np.sqrt(np.mean(ours.total**2)):.2g} logits (rms)"
    lines = [
        f"### {shape}, {tokens} tokens",
        "",
        f"Random weights{size}.",
        "",
        "| tool | time | against causalnet | measured | peak memory | largest difference | share of matmul speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, title in titles.items():
        if name in results:
            lines.append(row(title, results[name], ours))
        else:
            lines.append(f"| {title} | {reasons.get(name) or 'not measured'} | – | – | – | – | – |")
    return [*lines, ""]


def explanation(given: argparse.Namespace) -> str:
    """Return what was run and how the table is read."""
    layers = "" if given.layers is None else f", cut to {given.layers} layers"
    return (
        f"{given.prompts} prompts × all attention and MLP layers × {given.donors} donors{layers}: total effect and "
        f"every downstream direct effect. float32, {describe()}, torch {torch.__version__}.\n\n"
        f"Times are of the whole sweep. causalnet: the median of {given.repeat} sweeps. The others run one batch (a "
        "node, and up to 4096 tokens of prompts × donors) after the other; *measured* says how many batches were "
        "run, drawn at random over nodes and prompts, the time of all being scaled up from them and the natural "
        "runs. All are warmed up first; loading, wrapping and compiling the model is not timed. *Peak memory* is "
        "the whole process's, model and libraries included. *Share of matmul speed*: the time that the products "
        "with the layers' weights take at the speed of `torch.mm` on the same shapes, measured in the same process, "
        "as a share of the time of the sweep. *Largest difference* to causalnet's numbers, in logits. pyvene runs "
        "the donors anew for each intervention, as its tutorials do; TransformerLens computes with eager attention, "
        "as it has to for its hooks."
    )


def main() -> None:
    """Run the benchmark, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--donors", type=int, default=15)
    parser.add_argument("--layers", type=int, help="cut the models to so many layers")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each other tool, model and length")
    parser.add_argument("--full", action="store_true", help="measure every intervention by every tool")
    parser.add_argument("--repeat", type=int, default=5, help="sweeps by causalnet, of which the median is taken")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default=str(_PEERS), help="interpreter that has the other tools")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found = {name: find(TOOLS[name].needs, [sys.executable, given.peers]) for name in given.tools}
    own = ("causalnet", "torch")
    titles = {
        name: TOOLS[name].title + ("" if TOOLS[name].needs in own else f" {where.version}".rstrip())
        for name, where in found.items()
    }
    lines = [explanation(given), ""]
    print(lines[0], "\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for shape in given.shapes:
            reasons = {name: where.reason for name, where in found.items() if where.reason}
            for name in (name for name in given.tools if name not in reasons):
                print(f"{shape}: {titles[name]} …", file=sys.stderr, flush=True)
                reasons[name] = start(name, found[name], shape, given, Path(scratch))
            for tokens in given.tokens:
                part = table(shape, tokens, reasons, titles, Path(scratch))
                print("\n".join(part), flush=True)
                lines += part
    if given.write:
        put(TITLE, "\n".join(lines))


if __name__ == "__main__":
    main()
