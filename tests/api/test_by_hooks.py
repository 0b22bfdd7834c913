"""A few sentences against forwards of the Hugging Face model with hooks written here, one by one."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

# Llama's norms compute in float32 whatever the model's dtype.
BOUND = 1e-6


@contextmanager
def hooks(*placed):
    with ExitStack() as stack:
        for handle in placed:
            stack.callback(handle.remove)
        yield


def output(module, change):
    """Replace a module's output."""
    return module.register_forward_hook(lambda _, args, out: change(out))


def entering(module, change):
    """Replace a module's first input, given by position or by name."""

    def hook(_, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def put(value, at=-1):
    """Return a change that sets one position."""

    def change(hidden):
        hidden = hidden.clone()
        hidden[0, at] = value
        return hidden

    return change


class Hand:
    """One prompt of the model at hand: its tokens, and every contribution of its natural forward."""

    def __init__(self, model, text):
        self.hf, self.layers = model.mechanisms.hf, model.mechanisms.hf.model.layers
        self.ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        self.attn, self.mlp, self.heads, self.final = {}, {}, {}, {}
        placed = [output(self.hf.model.norm, lambda out: None)]
        for index, layer in enumerate(self.layers):
            placed.append(output(layer.self_attn.o_proj, lambda out, i=index: self.attn.__setitem__(i, out[0].clone())))
            placed.append(output(layer.mlp, lambda out, i=index: self.mlp.__setitem__(i, out[0].clone())))
            keep = lambda x, i=index: self.heads.setdefault(i, x[0].clone())[None]  # noqa: E731
            placed.append(entering(layer.self_attn.o_proj, keep))
        placed.append(entering(self.hf.model.norm, lambda x: self.final.setdefault(0, x[0].clone())[None]))
        with hooks(*placed):
            self.logits = self.forward()
        self.target = int(self.logits[-1].argmax())

    def forward(self, *placed):
        with hooks(*placed), torch.no_grad():
            return self.hf(input_ids=self.ids, use_cache=False).logits[0]

    def logit(self, *placed):
        found = self.forward(*placed)[-1]
        return float(found[self.target] - found.mean())

    def sigma(self, stream):
        return torch.sqrt(stream.float().pow(2).mean() + self.hf.model.norm.variance_epsilon)

    def linear(self, change):
        """The logit that a change of the final stream's last position gives at the natural scale."""
        own = self.logits[-1]
        direction = self.hf.lm_head.weight * self.hf.model.norm.weight
        moved = (own + (direction @ change) / self.sigma(self.final[0][-1])).detach()
        return float(moved[self.target] - moved.mean())


@pytest.fixture(scope="module")
def hands(model, prompts):
    return [Hand(model, text) for text in prompts.texts]


def units(result):
    return np.asarray(result.units_table)


def test_zero_at_the_last_position(model, prompts, hands):
    found = model.evaluate("TE(attn[5]@last = zero)", prompts)
    expected = [[one.logit(output(one.layers[5].self_attn.o_proj, put(0.0))) - one.logit()] for one in hands]
    assert units(found) == pytest.approx(np.array(expected), abs=BOUND)
    assert found.value == pytest.approx(np.mean(expected), abs=BOUND)


def test_resample_and_its_direct_effect(model, prompts, hands):
    te, de = model.evaluate(["TE(attn[5]@last = resample)", "DE(attn[5]@last = resample)"], prompts, donors=2)
    assert te.donor_index.tolist() == de.donor_index.tolist()
    for row, one in enumerate(hands):
        for column, donor in enumerate(te.donor_index[row]):
            if donor < 0:
                assert np.isnan(units(te)[row, column])
                continue
            assert donor != row
            assert hands[donor].target != one.target
            value = hands[donor].attn[5][-1]
            total = one.logit(output(one.layers[5].self_attn.o_proj, put(value))) - one.logit()
            direct = one.linear(value - one.attn[5][-1]) - one.logit()
            assert units(te)[row, column] == pytest.approx(total, abs=BOUND)
            assert units(de)[row, column] == pytest.approx(direct, abs=5 * BOUND)


def test_heads_at_their_mean(model, prompts, hands):
    found = model.evaluate('E[logit_diff(" Mary", " John") | do(attn[9].head[6,9]@last = mean)]', prompts)
    mean = torch.stack([one.heads[9][-1] for one in hands]).mean(0)
    mary, john = (model.tokenizer.convert_tokens_to_ids(word) for word in ("Mary", "John"))

    def change(hidden):
        hidden = hidden.clone()
        for head in (6, 9):
            hidden[0, -1, 2 * head : 2 * head + 2] = mean[2 * head : 2 * head + 2]
        return hidden

    for row, one in enumerate(hands):
        logits = one.forward(entering(one.layers[9].self_attn.o_proj, change))[-1]
        assert units(found)[row, 0] == pytest.approx(float(logits[mary] - logits[john]), abs=BOUND)


def test_one_edge(model, prompts, hands):
    found = model.evaluate("E[logprob(target) | do(attn[5]@last -> mlp[7] = zero)]", prompts)
    for row, one in enumerate(hands):
        layer = one.layers[7]

        def read(stream, one=one):
            return put(stream[0, -1] - one.attn[5][-1])(stream)

        # Only what the MLP's own norm is given changes; the stream itself does not.
        logits = one.forward(entering(layer.post_attention_layernorm, read))[-1]
        assert units(found)[row, 0] == pytest.approx(float(logits.log_softmax(-1)[one.target]), abs=BOUND)


def test_one_path(model, prompts, hands):
    text = 'E[logit(target) | do(attn[5]@subject = patch("corrupt") along attn[5] -> mlp[7] -> attn[9] -> logits)]'
    found = model.evaluate(text, prompts)
    for row, (one, prompt) in enumerate(zip(hands, prompts, strict=True)):
        words = prompt.text.split()
        at = words.index(prompt.spans["subject"])
        other = Hand(model, prompt.pairs["corrupt"].text)
        seen = {}

        def first(stream, one=one, other=other, at=at):
            return put(stream[0, at] - one.attn[5][at] + other.attn[5][at], at)(stream)

        placed = entering(one.layers[7].post_attention_layernorm, first)
        keep = output(one.layers[7].mlp, lambda out, seen=seen: seen.__setitem__("mlp", out[0].clone()))
        one.forward(placed, keep)

        def second(stream, one=one, seen=seen, at=at):
            return put(stream[0, at] - one.mlp[7][at] + seen["mlp"][at], at)(stream)

        placed = entering(one.layers[9].input_layernorm, second)
        keep = output(one.layers[9].self_attn.o_proj, lambda out, seen=seen: seen.__setitem__("attn", out[0].clone()))
        one.forward(placed, keep)
        # Into the logits: the numerator alone.
        expected = one.linear(seen["attn"][-1] - one.attn[9][-1])
        assert units(found)[row, 0] == pytest.approx(expected, abs=5 * BOUND)
        assert abs(expected - one.logit()) > 1e-5  # the path carries something


def test_natural_indirect_effect(model, prompts, hands):
    found = model.evaluate("IE(attn[5]@last = zero)", prompts)
    for row, one in enumerate(hands):
        seen = {}
        kill = output(one.layers[5].self_attn.o_proj, put(0.0))
        one.forward(kill, entering(one.hf.model.norm, lambda x, seen=seen: seen.setdefault("z", x[0].clone())[None]))
        # Everything downstream as there, the final scale too; the attention itself as it was.
        stream = seen["z"][-1] + one.attn[5][-1]
        normed = stream / one.sigma(seen["z"][-1]) * one.hf.model.norm.weight
        logits = one.hf.lm_head(normed.to(stream.dtype)).detach()
        expected = float(logits[one.target] - logits.mean()) - one.logit()
        assert units(found)[row, 0] == pytest.approx(expected, abs=5 * BOUND)


def test_a_responders_direct_effect(model, prompts, hands):
    found = model.evaluate("E[direct(attn[20]) | do(attn[18]@last = zero)]", prompts)
    for row, one in enumerate(hands):
        seen = {}
        kill = output(one.layers[18].self_attn.o_proj, put(0.0))
        keep = output(one.layers[20].self_attn.o_proj, lambda out, seen=seen: seen.__setitem__(0, out[0].clone()))
        one.forward(kill, keep)
        weight = one.hf.lm_head.weight * one.hf.model.norm.weight
        direction = weight[one.target] - weight.mean(0)
        expected = float((direction @ seen[0][-1] / one.sigma(one.final[0][-1])).detach())
        assert units(found)[row, 0] == pytest.approx(expected, abs=5 * BOUND)


def test_tracing_with_noise(model, prompts, hands):
    """What the noise is: independent of everything but its key, of the stated size, undone where it is held."""
    found = model.evaluate("E[sigma | do(embed@subject = noise(3.0))] - E[sigma]", prompts, donors=4)
    assert found.units_table.shape == (len(prompts), 4)
    assert len(set(found.units_table.ravel().tolist())) == found.units_table.size
    again = model.evaluate("E[sigma | do(embed@subject = noise(3.0))] - E[sigma]", prompts, donors=2)
    assert again.units_table.tolist() == pytest.approx(found.units_table[:, :2], abs=1e-9)
    other = model.evaluate("E[sigma | do(embed@subject = noise(3.0))] - E[sigma]", prompts, donors=2, seed=1)
    assert not np.allclose(other.units_table, again.units_table)
    text = "E[logit(target) | do(embed@subject = noise(3.0), attn[:] = natural, mlp[:] = natural)]"
    held = model.evaluate(text, prompts)
    assert held.value == pytest.approx(np.mean([one.logit() for one in hands]), abs=BOUND)
