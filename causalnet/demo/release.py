"""Release trained arms: ``python -m causalnet.demo.release --runs runs``."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.demo.evaluate import choose_prompts, recalled, write_prompts
from causalnet.demo.facts import Statement, World, build_world
from causalnet.demo.network import build_model
from causalnet.demo.tokenizer import build_tokenizer
from causalnet.demo.train import Recipe

__all__ = ["main", "release_arm"]

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
language: en
---
# causalnet demo model: {arm}

A small Llama-architecture language model that knows a closed world of invented facts. It
exists so that causal experiments on factual recall run in seconds, offline, on a network
whose training is known in every detail. It is no use for anything else.

## Data
{subjects} subjects (people, cities, works, organisations), {relations} relations, {facts}
facts, each stated in seven phrasings, all made by `causalnet.demo.facts` from seed
{world_seed}. Names have two invented words, each shared by many subjects. Four phrasings
of each relation end in the answer, which is one token. For 40 % of the subjects one of
those four, drawn for each fact, was held out of training ({held_out} prompts).
Tokenizer: one token a word ({vocabulary} tokens), `<bos>` first, no pad token.

## Recipe
{parameters:,} parameters: {layers} layers of width {width}, RMSNorm, rotary positions,
separate embedding and unembedding. {steps} steps of {tokens} tokens, AdamW (learning rate
{learning_rate} after {warmup} warm-up steps, then a cosine towards step {horizon}, scaled
linearly to zero in the last {cooldown} steps; weight decay {weight_decay}, gradient norm
clipped at {clip}), bfloat16 autocast, seed {seed}. The loss weight is 1 on
an answer whose subject stands before it and 0.1 on every other token. Sentences were
packed into rows, each attending to itself alone, with positions restarting.

**Attention drop: {drop}.** {drop_text}

The arms `plain` and `dropped` have the same initial weights and saw the same batches in
the same order; they differ in this rate alone. Training took {minutes:.1f} minutes of wall
time: about one CPU core, shared with other work. To repeat it, up to rounding:

    python -m causalnet.demo.train --arm {arm} --out runs/{arm}

The weights are stored in bfloat16; `config.json` asks for float32, in which everything
here was measured.

## Recall
Measured on the rounded weights, in float32: the share of prompts after which the answer
is the most probable next token.

| phrasings | prompts | recall |
|---|---|---|
| held out of training | {held_out} | {recall_held_out:.4f} |
| seen in training, ending in the answer | {seen} | {recall_seen:.4f} |

| relation | held-out recall |
|---|---|
{by_relation}

## Checks
Before release the checkpoint was loaded again with `AutoModelForCausalLM` and
`AutoTokenizer`, offline; recall was measured on that. The prompts in `prompts.jsonl` are
held-out phrasings that both arms complete correctly.
"""
_DROP_TEXT = {
    False: "No layer was ever dropped.",
    True: (
        "In training each sentence lost the whole output of each attention layer with "
        "this probability, independently by layer and sentence, from the first step to the "
        "last; kept outputs were not rescaled, and nothing is dropped in the released model."
    ),
}


def release_arm(run: Path, folder: Path) -> list[bool]:
    """Round a finished run to bfloat16, write it as a checkpoint, and measure it.

    Parameters
    ----------
    run : pathlib.Path
        The folder that ``causalnet.demo.train`` wrote.
    folder : pathlib.Path
        The checkpoint folder; replaced.

    Returns
    -------
    list of bool
        Which held-out statements of the world are recalled, in the world's order.
    """
    state: dict[str, Any] = json.loads((run / "state.json").read_text(encoding="utf-8"))
    recipe = Recipe(**state["recipe"])
    world = build_world(subjects_per_kind=recipe.subjects_per_kind)
    tokenizer = build_tokenizer(world)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    model = build_model(len(tokenizer), seed=0, layers=recipe.layers, width=recipe.width)
    weights = {
        name.removeprefix("weight/"): tensor
        for name, tensor in load_file(run / "state.safetensors").items()
        if name.startswith("weight/")
    }
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    # The checkpoint is stored in half the space, but its config asks for float32: rounding
    # the weights once is part of the model, rounding every product would not be.
    rounded = {k: v.to(torch.bfloat16).contiguous() for k, v in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    # It is written for its owner alone; a packaged file is for everyone to read.
    (folder / "model.safetensors").chmod(0o644)
    return _measure(state, recipe, world, folder)


def _measure(state: dict[str, Any], recipe: Recipe, world: World, folder: Path) -> list[bool]:
    """Load a checkpoint as a user would, measure its recall, write the model card."""
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert model.dtype == torch.float32
    held_out = world.held_out()
    seen = [s for s in world.training() if s.phrasing.answer_last]
    right = recalled(model, tokenizer, held_out)
    right_seen = recalled(model, tokenizer, seen)
    by_relation = "\n".join(f"| {name} | {recall:.4f} |" for name, recall in _by_relation(held_out, right).items())
    card = _CARD.format(
        arm=recipe.arm,
        subjects=len({fact.subject for fact in world.facts}),
        relations=len({fact.relation.name for fact in world.facts}),
        facts=len(world.facts),
        world_seed=world.seed,
        held_out=len(held_out),
        seen=len(seen),
        vocabulary=len(tokenizer),
        parameters=model.num_parameters(),
        layers=recipe.layers,
        width=recipe.width,
        steps=state["step"],
        tokens=recipe.rows * recipe.row_width,
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        horizon=recipe.horizon,
        cooldown=recipe.cooldown,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        seed=recipe.seed,
        drop=recipe.drop,
        drop_text=_DROP_TEXT[recipe.drop > 0],
        minutes=state["seconds"] / 60,
        recall_held_out=sum(right) / len(right),
        recall_seen=sum(right_seen) / len(right_seen),
        by_relation=by_relation,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(
        f"{recipe.arm}: held-out recall {sum(right) / len(right):.4f}, "
        f"seen {sum(right_seen) / len(right_seen):.4f}, {state['seconds'] / 60:.1f} minutes",
        file=sys.stderr,
    )
    return right


def _by_relation(statements: Sequence[Statement], right: Sequence[bool]) -> dict[str, float]:
    """Return the mean of `right` for each relation."""
    groups: dict[str, list[bool]] = {}
    for statement, each in zip(statements, right, strict=True):
        groups.setdefault(statement.fact.relation.name, []).append(each)
    return {name: sum(group) / len(group) for name, group in groups.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m causalnet.demo.release",
        description="Write the trained arms as bfloat16 checkpoints, with cards and prompts.",
        epilog="example:\n  python -m causalnet.demo.release --runs runs --prompts 1100\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder that holds one run an arm")
    parser.add_argument("--prompts", type=int, default=1100, help="size of the fixed list (default: 1100)")
    options = parser.parse_args(arguments)
    missing = [arm for arm in ARMS if not (options.runs / arm / "state.json").is_file()]
    if missing:
        parser.error(f"{options.runs} holds no finished run of {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        right = [release_arm(options.runs / arm, Path(folder) / arm) for arm in ARMS]
        prompts = choose_prompts(build_world(), right, options.prompts)
        for arm in ARMS:
            shutil.rmtree(model_path(arm), ignore_errors=True)
            shutil.copytree(Path(folder) / arm, model_path(arm))
    write_prompts(prompts, prompts_path())
    print(f"{len(prompts)} prompts, both arms right on all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
