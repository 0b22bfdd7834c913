"""A network made by hand, whose graph is known from paper."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from causalnet.errors import UnsupportedModelError
from causalnet.graph import Block, CausalGraph
from causalnet.model.check import check
from causalnet.model.compile import compile_model
from causalnet.model.discover import discover
from causalnet.model.edges import check_edges
from causalnet.model.record import source_of
from causalnet.model.shrink import randomise


class HandConfig(PreTrainedConfig):
    model_type = "made_by_hand"


class Mixing(nn.Module):
    """Every position gets a decaying sum of all positions so far."""

    def __init__(self, width):
        super().__init__()
        self.values = nn.Linear(width, width, bias=False)
        self.back = nn.Linear(width, width)

    def forward(self, stream):
        steps = torch.arange(stream.shape[1])
        decay = (0.9 ** (steps[:, None] - steps).clamp_min(0)).tril().to(stream)
        return self.back(decay @ self.values(stream))


class Row(nn.Module):
    def __init__(self, width, kind):
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing = Mixing(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, stream):
        mixed = self.mixing(self.first(stream))
        if self.kind == "parallel":
            return stream + mixed + 0.5 * self.down(torch.relu(self.up(self.second(stream))))
        stream = stream + mixed
        if self.kind == "shifted":
            return stream + self.down(torch.relu(self.up(self.second(stream.roll(1, dims=1)))))
        if self.kind == "reversed":
            return stream + self.mixing.back(self.down(torch.relu(self.up(self.second(stream)))))
        return stream + 0.5 * self.down(torch.relu(self.up(self.second(stream))))


class HandMade(PreTrainedModel):
    config_class = HandConfig

    def __init__(self, config, kind="sequential", width=16, vocab=23):
        super().__init__(config)
        self.words = nn.Embedding(vocab, width)
        self.rows = nn.ModuleList(Row(width, kind) for _ in range(2))
        self.last = nn.LayerNorm(width)
        self.out = nn.Linear(width, vocab)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def get_output_embeddings(self):
        return self.out

    def forward(self, input_ids=None, use_cache=None):
        stream = self.words(input_ids)
        for row in self.rows:
            stream = row(stream)
        return SimpleNamespace(logits=3.0 * self.out(self.last(stream)))


def made(kind):
    return randomise(HandMade(HandConfig(), kind).eval())


@pytest.mark.parametrize("kind", ["sequential", "parallel"])
def test_the_graph_is_the_one_on_paper(kind):
    mechanisms = compile_model(made(kind))
    paper = CausalGraph.from_blocks(
        [Block(layer, parallel=kind == "parallel", mixer="recurrent", heads=None) for layer in (0, 1)]
    )
    assert mechanisms.graph == paper
    assert mechanisms.graph.blocks == paper.blocks
    assert mechanisms.found == "discovery"
    assert check(mechanisms).holds
    assert check_edges(mechanisms).holds


def test_the_edges_are_those_on_paper():
    graph = compile_model(made("sequential")).graph
    edges = {(str(edge.source), str(edge.target)) for edge in graph.edges()}
    early = {("embed", "attn[0]"), ("embed", "mlp[0]"), ("attn[0]", "mlp[0]")}
    late = {(a, b) for a in ("embed", "attn[0]", "mlp[0]") for b in ("attn[1]", "mlp[1]")} | {("attn[1]", "mlp[1]")}
    ends = {(a, b) for a in ("embed", "attn[0]", "mlp[0]", "attn[1]", "mlp[1]") for b in ("norm", "logits")}
    assert edges == early | late | ends | {("norm", "logits")}
    parallel = {(str(edge.source), str(edge.target)) for edge in compile_model(made("parallel")).graph.edges()}
    assert parallel == edges - {("attn[0]", "mlp[0]"), ("attn[1]", "mlp[1]")}


def test_its_record():
    assert source_of(discover(made("parallel"))) == (
        'Family(("made_by_hand",), layers="rows", norm="last", '
        'attn=(Part("mixing", norm="first", out="back", heads="", mixer="recurrent", cached=False),), '
        'mlp=(Part(source="down", norm="second", scale=0.5),), parallel=True, logit_scale=3.0)'
    )


def test_tokens_shifted_outside_the_mixer_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"layer 0 \(Row\): .*all mix positions"):
        compile_model(made("shifted"))


def test_a_module_used_twice_in_a_layer_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"layer 0 \(Row\): no submodule outputs sum"):
        compile_model(made("reversed"))
