"""Tiny random models, prompts of made-up words, and a run of the embedded models on few prompts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.model.compile import compile_model
from causalnet.prompts import Prompts
from causalnet.studies.hydra import Arm, Options, hydra

VOCAB = 40
_SIZE = {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
_MORE = {"intermediate_size": 40, "max_position_embeddings": 16}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 16}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZE, **_MORE, num_key_value_heads=3)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**_GPT2)),
    "neox-parallel": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZE, **_MORE, use_parallel_residual=True)),
    "neox-sequential": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZE, **_MORE, use_parallel_residual=False)),
}


@cache
def _model(family, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = FAMILIES[family]()
        for name, parameter in model.named_parameters():
            # Large enough that norms, biases and nonlinearities matter.
            torch.nn.init.normal_(parameter, std=0.25)
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.data += 0.8
    return model.to(dtype).eval().requires_grad_(False)


class Words:
    """A tokenizer of words w0, w1, …"""

    def __call__(self, text):
        return {"input_ids": [int(word.removeprefix("w")) for word in text.split()]}

    def decode(self, ids):
        return " ".join(f"w{one}" for one in ids)


@pytest.fixture
def tiny():
    """A compiled tiny model by family and dtype."""
    return lambda family, dtype=torch.float64: compile_model(_model(family, dtype), name=family)


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def prompts():
    """Prompts of different lengths."""
    generator = torch.Generator().manual_seed(3)
    texts = []
    for length in (4, 6, 4, 5, 6, 4, 7):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        texts.append(" ".join(f"w{one}" for one in ids))
    return Prompts.from_texts(texts)


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """A run of both embedded models on few prompts."""
    arms = [Arm(name, str(model_path(name))) for name in ARMS]
    out = tmp_path_factory.mktemp("runs") / "demo"
    options = Options(donors=4, limit=36)
    return hydra(arms, Prompts.from_file(prompts_path()), options=options, out=out)


_SERVER = """
import json, os, sys
import numcodecs, scipy.stats, torch, transformers, xarray, zarr
import causalnet.draw.report, causalnet.studies.hydra
from causalnet.cli.main import main
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.stdin.close()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        request = json.loads(line)
        exec(request["before"])
        main(request["arguments"])
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """Runs ``causalnet`` in processes forked from one that has imported everything and computed nothing."""

    def __init__(self, errors):
        self.errors = errors
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.told = errors.open("w")
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.told,
            text=True,
            env=environment,
        )
        assert self.server.stdout.readline() == "ready\n", errors.read_text()

    def run(self, *arguments, kill_when=None, before=""):
        """Return the exit status; with ``kill_when``, kill -9 as soon as that is true (then the status may be -9)."""
        request = {"arguments": list(map(str, arguments)), "before": before}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        pid = int(self.server.stdout.readline())
        if kill_when is not None:
            while not kill_when():
                time.sleep(0.002)
            # Its number is not given away before the server has waited for it, but it may be gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.server.stdout.readline())

    def close(self):
        self.server.kill()
        self.server.communicate()
        self.told.close()


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    """Commands as processes that can be killed, without paying for the imports each time."""
    started = Commands(tmp_path_factory.mktemp("server") / "stderr")
    yield started
    started.close()
