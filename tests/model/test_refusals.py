"""What is refused, and that the message says why and what to do."""

import pytest
import torch
from torch import nn

from causalnet.errors import CompileError, InputError, UnsupportedModelError
from causalnet.model.compile import compile_config, compile_model
from causalnet.model.shrink import build
from causalnet.model.small import small_model


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba"])
def test_state_space_trunks(small, kind):
    with pytest.raises(UnsupportedModelError, match=r"state-space trunk.*compile a transformer, or a hybrid"):
        compile_model(small(kind))
    with pytest.raises(UnsupportedModelError, match="state-space trunk"):
        compile_config(small(kind).config)


def test_a_state_space_trunk_is_refused_without_being_named(small, monkeypatch):
    from causalnet.model import compile as compiling

    monkeypatch.setattr(compiling, "record_for", lambda config: None)
    with pytest.raises(UnsupportedModelError, match="no layer has an MLP contribution"):
        compile_model(small("mamba"))
    with pytest.raises(UnsupportedModelError):
        compile_model(small("rwkv"))


def test_rwkv(small):
    with pytest.raises(UnsupportedModelError, match="time shift"):
        compile_model(small("rwkv"))


def test_encoder_decoders():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedModelError, match=r"encoder–decoder.*decoder-only"):
        compile_model(T5ForConditionalGeneration(config).eval())
    with pytest.raises(UnsupportedModelError, match="encoder–decoder"):
        compile_config(config)


def test_the_post_norm_opt():
    from transformers import OPTConfig

    config = OPTConfig(
        **{"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 32},
        **{"word_embed_proj_dim": 16, "do_layer_norm_before": False, "max_position_embeddings": 32},
    )
    for attempt in (lambda: compile_model(build(config)), lambda: compile_config(config)):
        with pytest.raises(UnsupportedModelError, match=r"OPT-350m.*post-norm trunk.*another size"):
            attempt()


def test_the_post_norm_bloom():
    model = small_model("bloom", apply_residual_connection_post_layernorm=True)
    with pytest.raises(UnsupportedModelError, match="residual stream itself passes through the norms"):
        compile_model(model)


def test_training_mode(fresh):
    model = fresh("llama").train()
    with pytest.raises(UnsupportedModelError, match=r"training mode.*model\.eval\(\)"):
        compile_model(model)


def test_dropout_left_active_in_one_module(fresh):
    model = fresh("gpt2", resid_pdrop=0.5)
    model.transformer.h[1].attn.resid_dropout.train()
    with pytest.raises(UnsupportedModelError, match="training mode"):
        compile_model(model)


def test_what_is_no_language_model(small):
    with pytest.raises(UnsupportedModelError, match="a transformers causal LM is expected, not Linear"):
        compile_model(nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="no unembedding; load it with AutoModelForCausalLM"):
        compile_model(small("llama").model)


def test_parameters_without_values(small):
    with pytest.raises(UnsupportedModelError, match=r"meta device.*config"):
        compile_model(build(small("llama").config, device="meta"))


def test_granularity(small):
    with pytest.raises(InputError, match="did you mean 'head'"):
        compile_model(small("llama"), granularity="heads")
    with pytest.raises(UnsupportedModelError, match="heads of no layer can be told apart; use granularity='layer'"):
        compile_model(small("xlstm"), granularity="head")


class Rounded(nn.Module):
    """A linear layer whose output is rounded coarsely and noisily, as a bad quantisation would."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.weight = inner.weight
        self.calls = 0

    def forward(self, hidden):
        self.calls += 1
        return self.inner(hidden) * (1.0 + 0.02 * (self.calls % 3))


def test_a_model_that_does_not_repeat_itself_is_refused(fresh):
    model = fresh("llama")
    model.lm_head = Rounded(model.lm_head).eval()
    with pytest.raises(CompileError, match=r"llama.*does not reproduce the model: .*(misses by|relative)"):
        compile_model(model)


def test_a_patched_layer_is_refused_with_layer_and_size(fresh):
    model = fresh("llama")
    layer = model.model.layers[1]
    plain = layer.forward

    def patched(*args, **kwargs):
        return plain(*args, **kwargs) * 1.01

    layer.forward = patched
    with pytest.raises(
        CompileError, match=r"sum of the contributions in layer 1 misses by 8.*discovery finds misses as well"
    ):
        compile_model(model)


def test_a_side_channel_is_refused(fresh):
    """A layer that reads the token embeddings beside the residual stream."""
    model = fresh("llama")
    seen = {}
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: seen.__setitem__("embed", output))
    mlp = model.model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = lambda hidden: plain(hidden) + 0.1 * seen["embed"]
    with pytest.raises((CompileError, UnsupportedModelError), match=r"beside the stream|does not account"):
        compile_model(model)


def test_states_shared_between_layers_are_refused(fresh):
    """An attention that adds what the attention of the layer before returned."""
    model = fresh("llama")
    kept = {}
    first, second = (layer.self_attn for layer in model.model.layers)
    one, two = first.forward, second.forward

    def keep(*args, **kwargs):
        out = one(*args, **kwargs)
        kept["first"] = out[0]
        return out

    def use(*args, **kwargs):
        out = two(*args, **kwargs)
        return (out[0] + 0.5 * torch.tanh(kept["first"]), *out[1:])

    first.forward, second.forward = keep, use
    with pytest.raises((CompileError, UnsupportedModelError), match=r"beside the stream|does not account"):
        compile_model(model)


def test_an_mlp_that_shifts_tokens_is_refused(fresh):
    model = fresh("llama")
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda hidden: plain(hidden + hidden.roll(1, dims=1))
    with pytest.raises((CompileError, UnsupportedModelError), match=r"crosses no positions|mix positions|later one"):
        compile_model(model)


def test_routing_over_the_batch_is_refused(fresh):
    model = fresh("llama")
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda hidden: plain(hidden) * hidden.abs().mean()
    with pytest.raises((CompileError, UnsupportedModelError), match=r"independent|prompts of a batch"):
        compile_model(model)


def test_an_attention_that_looks_ahead_is_refused(fresh):
    model = fresh("llama")
    attn = model.model.layers[0].self_attn
    plain = attn.forward
    attn.forward = lambda *args, **kwargs: plain(*args, **{**kwargs, "attention_mask": None, "is_causal": False})
    attn.is_causal = False
    with pytest.raises((CompileError, UnsupportedModelError), match="later"):
        compile_model(model)


def test_nothing_stays_on_a_refused_model(fresh):
    model = fresh("llama")
    model.model.layers[1].forward = lambda *args, **kwargs: torch.zeros(1)
    with pytest.raises(Exception):  # noqa: B017, PT011
        compile_model(model)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in fresh("llama").modules())


class Packed(nn.Module):
    """A linear layer without a plain weight matrix, as quantised ones are."""

    def __init__(self, inner):
        super().__init__()
        self.scale = inner.weight.detach().abs().amax(1, keepdim=True) / 127
        self.weight = nn.Parameter((inner.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, hidden):
        return nn.functional.linear(hidden, self.weight.to(hidden.dtype) * self.scale)


def test_a_quantised_unembedding_is_refused(fresh):
    model = fresh("llama")
    model.lm_head = Packed(model.lm_head).eval()
    with pytest.raises(UnsupportedModelError, match=r"unembedding \(Packed\) has no plain weight.*quantisation"):
        compile_model(model)


def test_quantised_layers_compile_where_the_closure_holds_but_have_no_heads(fresh):
    model = fresh("llama")
    for layer in model.model.layers:
        layer.self_attn.o_proj = Packed(layer.self_attn.o_proj).eval()
    assert compile_model(model).graph.blocks[0].heads is None
    with pytest.raises(UnsupportedModelError, match="use granularity='layer'"):
        compile_model(model, granularity="head")
