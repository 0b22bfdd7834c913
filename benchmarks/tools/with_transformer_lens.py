"""TransformerLens: ``run_with_cache`` under a hook function, all prompts × donors for each node."""

import tempfile
from functools import cache
from typing import Any

import numpy as np
import torch
from task import Node, Steps, Task
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedTokenizerFast

__all__ = ["prepare"]


def prepare(task: Task) -> Steps:
    """Boot a bridge around the model; activations are patched and cached by their names."""
    bridge, donated = _bridge(task.model), {}
    names = {node: f"blocks.{node[1]}.hook_{node[0]}_out" for node in task.nodes}

    def run(ids: torch.Tensor, hooks: list) -> tuple[torch.Tensor, dict[Node, torch.Tensor]]:
        with torch.no_grad(), bridge.hooks(fwd_hooks=hooks):
            logits, cache = bridge.run_with_cache(ids, names_filter=list(names.values()), pos_slice=-1)
        return logits[:, -1], {node: cache[name][:, 0] for node, name in names.items()}

    def first() -> None:
        donated.update(run(task.ids, [])[1])

    def each(node: Node, batch: slice) -> tuple[np.ndarray, np.ndarray]:
        ids, donors = task.rows(batch)

        def patch(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            activation[:, -1] = donated[node][donors]
            return activation

        logits, seen = run(ids, [(names[node], patch)])
        return task.readout.read(task, batch, node, logits, seen)

    return Steps(first, each)


@cache
def _bridge(model: Any) -> Any:
    """Boot a bridge with a tokenizer that is never asked; it is read from a folder, as the bridge wants it."""
    model.config.architectures = [type(model).__name__]
    marks = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<s>")
    mute = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>")), **marks)
    with tempfile.TemporaryDirectory() as folder:
        mute.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")
