"""Figure 5: the effects of a residual network of two layers, by closed form, and the picture that tells them."""

import subprocess
import sys

import numpy as np
import pytest

from causalnet.draw.routes import effect_routes
from causalnet.draw.style import save
from causalnet.effects.asking import unit_effects
from causalnet.effects.estimands import natural_effects
from causalnet.errors import InputError
from causalnet.expr import mlp, resample, scale, zero
from causalnet.testing.finite import field_network
from causalnet.testing.motifs import residual_network


@pytest.mark.parametrize(("first", "second"), [(1.0, -0.6), (2.0, 0.5), (-1.5, -1.0)])
def test_the_effects_meet_their_closed_forms(first, second):
    units = (1.0, 2.0, -3.0)
    network = residual_network(first, second, units)
    x = first * np.array(units)[:, None]
    for value, other in ((zero, 0 * x), (scale(3.0), 3 * x)):
        found = unit_effects(network, natural_effects(mlp[0] << value))
        np.testing.assert_allclose(found["TE"], (1 + second) * (other - x), atol=1e-12)
        np.testing.assert_allclose(found["NDE"], other - x, atol=1e-12)
        np.testing.assert_allclose(found["NIE"], second * (other - x), atol=1e-12)
        np.testing.assert_allclose(found["INTmed"], 0 * x, atol=1e-12)


def looks(axis):
    """Return how each edge is drawn, by name."""
    return {text.get_gid().split(" ", 1)[1]: text.get_gid().split(" ", 1)[0] for text in axis.texts if text.get_gid()}


def boxes(axis):
    return dict(text.get_text().split("\n") for text in axis.texts if "\n" in text.get_text())


def test_the_picture_says_where_the_change_goes():
    total, direct, indirect = effect_routes(residual_network(), mlp[0] << zero, prompt=1)
    assert [axis.get_title(loc="left")[:9] for axis in (total, direct, indirect)] == [
        "TE −0.80:", "NDE −2.00", "NIE +1.20",
    ]  # fmt: skip
    into = {"embed -> mlp[0]": "cut", "embed -> logits": "still", "mlp[0] -> logits": "carries"}
    assert looks(total) == into | {
        "embed -> mlp[1]": "still", "mlp[0] -> mlp[1]": "carries", "mlp[1] -> logits": "carries",
    }  # fmt: skip
    held = {"embed -> mlp[1]": "cut", "mlp[0] -> mlp[1]": "cut"}
    assert looks(direct) == into | held | {"mlp[1] -> logits": "still"}
    assert looks(indirect) == held | {
        "embed -> mlp[0]": "still", "embed -> logits": "still", "mlp[0] -> logits": "still",
        "mlp[1] -> logits": "carries",
    }  # fmt: skip
    assert boxes(total) == {
        "embed": "2", "mlp[0]": "2 → 0", "mlp[1]": "−2.4 → −1.2", "logits (Y)": "1.6 → 0.8",
    }  # fmt: skip
    assert boxes(direct)["mlp[1]"] == "−2.4" and boxes(indirect)["mlp[0]"] == "2"
    assert "prompt 1" in total.figure.get_supxlabel() and "Y(do) − Y, in logits" in total.figure.get_supxlabel()


def test_texts_stay_inside_their_boxes_and_boxes_apart(tmp_path):
    axes = effect_routes(residual_network(units=(123.456,)), mlp[0] << scale(-3.0))
    assert save(axes, tmp_path / "figure-5.svg").stat().st_size > 1000
    figure = axes[0].figure
    figure.canvas.draw()
    for axis in axes:
        patches = [patch.get_window_extent() for patch in axis.patches]
        written = [text.get_window_extent() for text in axis.texts if "\n" in text.get_text()]
        assert len(patches) == len(written) == 4
        for patch, text in zip(patches, written, strict=True):
            assert patch.x0 <= text.x0 and text.x1 <= patch.x1 and patch.y0 <= text.y0 and text.y1 <= patch.y1
        for at, one in enumerate(patches):
            assert not any(one.overlaps(other) for other in patches[at + 1 :])


def test_what_it_refuses():
    with pytest.raises(InputError, match=r"no unit \(prompt 3, draw 0\)"):
        effect_routes(residual_network(), mlp[0] << zero, prompt=3)
    with pytest.raises(InputError, match="12 nodes besides the norm, and at most 8"):
        effect_routes(field_network(layers=5), mlp[0] << resample)


def test_nothing_heavy_is_loaded_before_something_is_drawn():
    heavy = "{'torch', 'transformers', 'matplotlib', 'dowhy'}"
    code = f"import sys, causalnet.draw.routes; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
