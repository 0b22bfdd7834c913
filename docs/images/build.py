"""Rebuild the pictures of this folder: the drawn graphs, every figure, and the report in a browser.

Run ``python docs/images/build.py [--run RUN]``.  RUN is a folder that ``causalnet hydra`` wrote for the two
embedded models; without it the study is run on their first 300 prompts.  The report is photographed with
Chromium, driven by the package playwright; where either is missing its pictures are left as they are.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from causalnet.draw import Run
    from causalnet.graph import CausalGraph

HERE = Path(__file__).resolve().parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@dataclass(frozen=True)
class Deep:
    """A small model of many layers, with random weights: only its shape and its sweep are of interest."""

    graph: "CausalGraph"
    data: "xr.Dataset"


def studied(folder: Path) -> Path:
    """Run the study on the embedded models."""
    from causalnet.demo import ARMS, model_path, prompts_path
    from causalnet.prompts import Prompts
    from causalnet.studies.hydra import Arm, Options, hydra

    arms = [Arm(name, str(model_path(name))) for name in ARMS]
    return hydra(arms, Prompts.from_file(prompts_path()), options=Options(limit=300), out=folder / "run").path


def deep(layers: int) -> Deep:
    """Sweep a small random Llama of ``layers`` layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from causalnet.effects.sweep import find_targets, sweep
    from causalnet.engine.inputs import Inputs
    from causalnet.expr.values import ZERO
    from causalnet.model.compile import compile_model
    from causalnet.studies.record import run_record

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
                         num_attention_heads=4, num_key_value_heads=4, initializer_range=0.15)  # fmt: skip
    mechanisms = compile_model(LlamaForCausalLM(config).eval(), name=f"random Llama, {layers} layers")
    ids = tuple(tuple(int(token) for token in torch.randint(0, 64, (6,))) for _ in range(40))
    targets = tuple(int(one) for one in find_targets(mechanisms, Inputs(ids, seed=0)))
    nodes = [node for node in mechanisms.graph.contributors if node.kind in ("attn", "mlp")]
    texts = [" ".join(map(str, row)) for row in ids]
    record = run_record(mechanisms, _prompts(texts), seed=0, arguments={})
    data = sweep(mechanisms, Inputs(ids, targets=targets, seed=0), nodes, ZERO, texts=texts, decode=str, record=record)
    return Deep(mechanisms.graph, data)


def _prompts(texts: list[str]) -> Any:
    from causalnet.prompts import Prompts

    return Prompts.from_texts(texts)


def graphs(run: "Run", out: Path) -> None:
    """Draw the layer graph at 8, 32 and 80 layers, one over positions and one with its heads."""
    from causalnet.draw import draw
    from causalnet.draw.sweep import as_sweep
    from causalnet.graph import Block, CausalGraph

    arm = run.arms[-1]
    assert arm.graph is not None
    draw(arm.graph, arm.data, node="attn[2]", path=out / "graph.png")
    for layers in (32, 80):
        one = deep(layers)
        sweep = as_sweep(one.data)
        node = sweep.nodes[max(sweep.of_kind("attn")[: layers // 2], key=lambda at: abs(sweep.de[:, at].mean()))]
        started = time.perf_counter()
        draw(one.graph, one.data, node=node, path=out / f"graph-{layers}.png")
        print(f"{layers} layers drawn in {time.perf_counter() - started:.2f} s", file=sys.stderr)
    blocks = [Block(0), Block(1), Block(2, parallel=True), Block(3, window=2)]
    four = CausalGraph.from_blocks(blocks, name="two sequential blocks, a parallel one, one with a window of 2")
    tokens = ["The", " Eiffel", " Tower", " is", " in"]
    draw(four.unroll(5), node="attn[1]@3", tokens=tokens, path=out / "positions.png")
    heads = CausalGraph.from_blocks([Block(layer, heads=12) for layer in range(4)], name="heads", granularity="head")
    draw(heads, node="attn[1].head[7]", fold=False, path=out / "heads.png")


def figures(run: "Run") -> dict[str, Callable[[], Any]]:
    """Return every figure by the name of its file."""
    from causalnet import draw, mlp, zero
    from causalnet.testing.motifs import residual_network

    one = run.arms[-1]
    data, summary = one.data, one.summary
    summaries = {arm.name: arm.summary for arm in run.arms}
    return {
        "figure-1-3-example": lambda: draw.example(data, 3, "attn[2]"),
        "figure-2ab-impact": lambda: draw.impact(data),
        "figure-5-effects": lambda: draw.effect_routes(residual_network(), mlp[0] << zero),
        "figure-2c-drop": lambda: draw.drop_vs_direct(data),
        "figure-2d-explained": lambda: draw.explained(data, summary),
        "figure-7ac-compensation": lambda: draw.ce_vs_direct(data, summary),
        "figure-7b-best-layer": lambda: draw.best_layer(data, summary),
        "figure-7d-slopes": lambda: draw.slopes(data, summary),
        "figure-8-by-responder-kind": lambda: draw.by_responder_kind(data),
        "coupling": lambda: draw.coupling(data),
        "waterfall": lambda: draw.waterfall(data, "attn[2]"),
        "donor-convergence": lambda: draw.donor_convergence(data, "attn[2]"),
        "arms": lambda: draw.compare(summaries),
        "variants": lambda: draw.variants("training", summaries),
    }


def photographs(report: Path, out: Path) -> None:
    """Photograph the report, light and dark, wide and narrow."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("no pictures of the report: install the package playwright", file=sys.stderr)
        return
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no pictures of the report: install Chromium (Debian: apt install chromium)", file=sys.stderr)
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        for width, height in ((1280, 1150), (390, 1150)):
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(report.resolve().as_uri())
                page.select_option("#set", index=1)
                page.click('.box[data-node="attn[2]"]')
                page.mouse.move(0, 0)
                page.evaluate("document.getElementById('explore').scrollIntoView()")
                page.wait_for_timeout(200)
                page.screenshot(path=out / f"report-{width}-{scheme}.png")
                page.close()
        browser.close()


def shrink(folder: Path) -> None:
    """Reduce the pictures to 256 colours: flat drawings look the same and take a third."""
    from PIL import Image

    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            flat = Image.new("RGB", picture.size, "white")
            flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        flat.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Rebuild all pictures."""
    parser = argparse.ArgumentParser(description="Rebuild the pictures of docs/images.")
    parser.add_argument("--run", type=Path, help="a run of the two embedded models")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    asked = parser.parse_args()
    from causalnet.draw import read_run, report, save

    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "pictures"
        made.mkdir()
        run = read_run(asked.run or studied(Path(scratch)))
        graphs(run, made)
        for name, make in figures(run).items():
            save(make(), made / f"{name}.png")
        photographs(report(run, Path(scratch) / "report.html"), made)
        with suppress(ImportError):
            shrink(made)
        for path in sorted(made.iterdir()):
            shutil.copy(path, asked.out / path.name)
            print(f"{path.name}: {path.stat().st_size // 1024} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
