"""The network of the embedded models, and the forward pass it is trained with."""

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from causalnet.demo.batches import Batch

__all__ = ["TrainingForward", "build_model", "draw_keep"]


def build_model(vocabulary: int, *, seed: int, layers: int = 8, width: int = 128) -> LlamaForCausalLM:
    """Make a freshly initialised Llama network.

    Parameters
    ----------
    vocabulary : int
        The number of tokens.
    seed : int
        The seed of the initial weights.
    layers, width : int
        Its depth, and the width of its residual stream (a multiple of 32).

    Returns
    -------
    transformers.LlamaForCausalLM
        In float32, with separate embedding and unembedding.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def draw_keep(batch: Batch, *, layers: int, drop: float, seed: int) -> torch.Tensor:
    """Draw which attention layers each sentence goes through.

    Parameters
    ----------
    batch : Batch
        The sentences.
    layers : int
        The number of attention layers.
    drop : float
        The probability that a sentence loses a given layer's attention output.
    seed : int
        The seed of the draw.

    Returns
    -------
    torch.Tensor
        Ones and zeros ``[layer, row, position, 1]``, constant over a sentence.
    """
    generator = torch.Generator().manual_seed(seed)
    documents = int(batch.document.max()) + 1
    shape = (layers, batch.document.shape[0], documents)
    kept = (torch.rand(shape, generator=generator) >= drop).float()
    index = batch.document.expand(layers, -1, -1)
    return kept.gather(2, index).unsqueeze(-1)


class TrainingForward(nn.Module):
    """The loss of a packed batch, with attention outputs dropped.

    The model's own modules are called layer by layer; the only change is that each
    attention output is multiplied by its keep mask before it joins the residual stream.
    With a mask of ones this is the model's own forward pass. Kept outputs are not scaled
    up, and nothing is scaled down later.

    Parameters
    ----------
    model : transformers.LlamaForCausalLM
        The network, whose parameters are shared.

    References
    ----------
    Fan, Grave, Joulin, "Reducing Transformer Depth on Demand with Structured Dropout"
    (2019), arXiv 1909.11556; Huang et al., "Deep Networks with Stochastic Depth" (2016),
    arXiv 1603.09382.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def logits(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, keep: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits ``[row, position, vocab]``."""
        trunk = self.model.model
        resid = trunk.embed_tokens(tokens)
        rotary = trunk.rotary_emb(resid, positions)
        for i, layer in enumerate(trunk.layers):
            assert isinstance(layer, LlamaDecoderLayer)
            attended, _ = layer.self_attn(layer.input_layernorm(resid), position_embeddings=rotary, attention_mask=mask)
            resid = resid + attended * keep[i]
            resid = resid + layer.mlp(layer.post_attention_layernorm(resid))
        return self.model.lm_head(trunk.norm(resid))

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        keep: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Return the weighted mean of the cross entropies, in nats."""
        logits = self.logits(tokens, positions, mask, keep).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (loss * weights.flatten()).sum() / weights.sum()
