"""Hooks live as long as their block."""

import pytest
import torch
from torch import nn

from causalnet.model.probe import hidden_of, hooked, with_hidden


class Pair(nn.Module):
    def forward(self, hidden_states, scale=1.0):
        return hidden_states * scale, "rest"


def count(module):
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_hooks_are_removed_whatever_is_raised():
    layer = nn.Linear(2, 2)

    def hook_and_fail():
        with hooked() as hooks:
            hooks.on_output(layer, lambda out: None)
            hooks.on_input(layer, lambda hidden: None)
            hooks.on_any(layer, lambda args, kwargs, out: None)
            assert count(layer) == 3
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        hook_and_fail()
    assert count(layer) == 0


def test_inputs_and_first_outputs_are_changed():
    pair, x = Pair(), torch.ones(2, 3)
    with hooked() as hooks:
        hooks.on_input(pair, lambda hidden: hidden + 1)
        hooks.on_output(pair, lambda out: out * 10)
        changed, rest = pair(hidden_states=x, scale=2.0)
    assert torch.equal(changed, 40 * x)
    assert rest == "rest"
    assert torch.equal(pair(x)[0], x)


def test_what_is_seen_is_what_was_changed_before():
    pair, seen = Pair(), []
    with hooked() as hooks:
        hooks.on_input(pair, lambda hidden: hidden + 1)
        hooks.on_any(pair, lambda args, kwargs, out: seen.append((hidden_of(args, kwargs), out[0])))
        pair(torch.zeros(1))
    assert seen == [(torch.ones(1), torch.ones(1))]


def test_hidden_states_are_found_by_place_or_name():
    x, y = torch.zeros(1), torch.ones(1)
    assert hidden_of((x, 3), {}) is x
    assert hidden_of((), {"hidden_states": x}) is x
    assert with_hidden((x, 3), {"a": 1}, y) == ((y, 3), {"a": 1})
    assert with_hidden((), {"x": x, "a": 1}, y) == ((), {"x": y, "a": 1})
    assert with_hidden((x, x, 3), {"again": x}, y) == ((y, y, 3), {"again": y})
    with pytest.raises(TypeError, match="no hidden states"):
        hidden_of((3,), {"mask": x})
