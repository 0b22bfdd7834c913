# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Your own model family
#
# causalnet has records of many families, but it does not need one: a model without a record is *discovered*, by
# finding the submodules whose outputs sum to each layer's change and testing which of them sees which. What is found
# is checked against the model like everything else. Here is a network that nobody has a record of: a decaying average
# instead of attention, and MLPs whose contribution is halved by the layer itself.

# %%
from types import SimpleNamespace

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

torch.manual_seed(0)
WIDTH, VOCAB, LAYERS = 16, 23, 3


class FadingConfig(PreTrainedConfig):
    """A config with a type that transformers does not know."""

    model_type = "fading"


class Fading(nn.Module):
    """Every position gets a decaying sum of all positions so far."""

    def __init__(self):
        super().__init__()
        self.values, self.back = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, stream):
        """Mix positions."""
        steps = torch.arange(stream.shape[1])
        decay = (0.9 ** (steps[:, None] - steps).clamp_min(0)).tril().to(stream)
        return self.back(decay @ self.values(stream))


class Row(nn.Module):
    """One layer: a mixer, then an MLP that the layer halves."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixing, self.up, self.down = Fading(), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, stream):
        """Add both contributions to the stream."""
        stream = stream + self.mixing(self.first(stream))
        return stream + 0.5 * self.down(torch.relu(self.up(self.second(stream))))


class FadingModel(PreTrainedModel):
    """The language model: embedding, rows, norm, unembedding."""

    config_class = FadingConfig

    def __init__(self, config):
        super().__init__(config)
        self.words, self.last, self.out = nn.Embedding(VOCAB, WIDTH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB)
        self.rows = nn.ModuleList(Row() for _ in range(LAYERS))
        self.post_init()

    def get_input_embeddings(self):
        """Return the embedding."""
        return self.words

    def get_output_embeddings(self):
        """Return the unembedding."""
        return self.out

    def forward(self, input_ids=None, use_cache=None):
        """Return logits [prompt, position, vocab]."""
        stream = self.words(input_ids)
        for row in self.rows:
            stream = row(stream)
        return SimpleNamespace(logits=self.out(self.last(stream)))


network = FadingModel(FadingConfig()).eval()
with torch.no_grad():  # transformers starts with small weights and no bias; let everything matter
    for parameter in network.parameters():
        parameter.normal_(0.0, 0.4 if parameter.dim() > 1 else 0.1)
    for norm in (module for module in network.modules() if isinstance(module, nn.LayerNorm)):
        norm.weight.add_(1.0)
    network.words.weight.normal_()

# %% [markdown]
# ## Compile it
#
# A tokenizer is anything that is called as one.

# %%
import causalnet as cn
from causalnet import DE, TE, attn, last, resample

WORDS = list("abcdefghijklmnopqrstuvw")


def tokenizer(text):
    """Return the numbers of the words of a text."""
    return {"input_ids": [WORDS.index(word) for word in text.split()]}


model = cn.compile(network, tokenizer=tokenizer)
print(model)
print("found by", model.mechanisms.found)
print(model.check().worst)

# %% [markdown]
# ## What was found
#
# A record is data: paths in the model and the few conventions that differ between families. Printed, it can be kept
# as a file in `causalnet/model/families/`, so that the family needs no discovery any more.

# %%
from causalnet.model.discover import discover
from causalnet.model.record import source_of

print(source_of(discover(network)))
print([(block.kind, block.mixer, block.heads) for block in model.graph.blocks])

# %% [markdown]
# The layer is sequential, its mixer is recurrent and has no heads to tell apart, and the factor 0.5 was measured.
# More than the closures is tested where you ask for it: that every edge of the graph carries something and no absent
# one does, and the laws of structural causal models.

# %%
from causalnet.model.edges import check_edges
from causalnet.testing import check_laws

edges = check_edges(model.mechanisms)
print(f"{len(edges.rows)} pairs of nodes tested, all as the graph says: {edges.holds}")
print(check_laws(model, laws=["null", "locality", "identities"], cases=4))

# %% [markdown]
# ## Ask it
#
# From here on it is a model like any other.

# %%
prompts = [" ".join(WORDS[(3 * i + 5 * k) % VOCAB] for k in range(6)) for i in range(40)]
for query in (TE(attn[1] @ last << resample), DE(attn[1] @ last << resample)):
    print(model.evaluate(query, prompts))

# %% [markdown]
# ## What cannot be expressed is refused
#
# A block that looks one token back outside its mixer would make every graph here a lie.


# %%
class Shifted(Row):
    """A row whose MLP reads the position before."""

    def forward(self, stream):
        """Add both contributions to the stream."""
        stream = stream + self.mixing(self.first(stream))
        return stream + 0.5 * self.down(torch.relu(self.up(self.second(stream.roll(1, dims=1)))))


network.rows = nn.ModuleList(Shifted() for _ in range(LAYERS)).eval()
try:
    cn.compile(network, tokenizer=tokenizer)
except cn.errors.UnsupportedModelError as refusal:
    print(refusal)
