"""The plots: that they show the numbers of the result, and that nothing in them is clipped or overlaps."""

import itertools
import re

import numpy as np
import pytest

from causalnet import draw
from causalnet.draw import style
from causalnet.draw.sweep import as_sweep, interval
from causalnet.effects.statistics import participation_ratio, regression
from causalnet.errors import DataError, InputError, UnknownNodeError


def flat(axes):
    return list(axes) if isinstance(axes, list) else [axes]


ALL = {
    "impact": lambda data, summary: draw.impact(data),
    "drop_vs_direct": lambda data, summary: draw.drop_vs_direct(data),
    "ce_vs_direct": draw.ce_vs_direct,
    "best_layer": draw.best_layer,
    "slopes": draw.slopes,
    "coupling": lambda data, summary: draw.coupling(data),
    "example": lambda data, summary: draw.example(data, 3),
    "waterfall": lambda data, summary: draw.waterfall(data),
    "donor_convergence": lambda data, summary: draw.donor_convergence(data),
    "compare": lambda data, summary: draw.compare({"one": summary, "two": summary}),
    "explained": draw.explained,
    "by_responder_kind": lambda data, summary: draw.by_responder_kind(data),
    "variants": lambda data, summary: draw.variants("ablation", dict.fromkeys("abc", summary)),
}


@pytest.fixture(scope="module")
def data(make_sweep):
    return make_sweep()


@pytest.fixture(scope="module")
def summary(data, make_summary):
    return make_summary(data)


@pytest.mark.parametrize("name", ALL)
def test_every_axis_is_named_and_every_caption_says_n(data, summary, name):
    axes = flat(ALL[name](data, summary))
    assert all(axis.get_xlabel() or name in ("waterfall", "by_responder_kind") for axis in axes)
    assert axes[0].get_ylabel()
    caption = axes[0].figure.get_supxlabel()
    assert re.search(r"n = 40|Prompt 3|one: 40|a: 40", caption)
    units = " ".join([caption, *(axis.get_xlabel() + axis.get_ylabel() for axis in axes)])
    assert "logits" in units or name == "compare"  # slopes have no units


def texts(figure):
    """Return every text that is seen, with its box in pixels."""
    from matplotlib.text import Text

    renderer = figure.canvas.get_renderer()
    found = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text().strip()]
    # Ticks beyond the ends of an axis are texts, too, but never drawn.
    ticks = {id(one): axis for axis in figure.axes for one in (*axis.get_xticklabels(), *axis.get_yticklabels())}
    drawn = {id(one) for axis in figure.axes for which in (axis.xaxis, axis.yaxis) for tick in which._update_ticks()
             for one in (tick.label1, tick.label2)}  # fmt: skip
    kept = [one for one in found if id(one) not in ticks or id(one) in drawn]
    return [(one.get_text(), one.get_window_extent(renderer)) for one in kept]


@pytest.mark.parametrize("layers", [2, 6, 32, 80])
@pytest.mark.parametrize("name", ALL)
def test_nothing_is_clipped_and_no_labels_overlap(make_sweep, make_summary, name, layers):
    data = make_sweep(layers, prompts=12, donors=3)
    figure = flat(ALL[name](data, make_summary(data)))[0].figure
    figure.canvas.draw()
    whole = figure.bbox
    found = texts(figure)
    assert len(found) > 8
    held = [box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1 for _, box in found]
    outside = [text for (text, _), inside in zip(found, held, strict=True) if not inside]
    assert not outside
    over = [
        (one, two)
        for (one, a), (two, b) in itertools.combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1.5
    ]
    assert not over


def test_impact_shows_the_means(data):
    attention, mlp = draw.impact(data)
    direct, drop = (line.get_ydata() for line in attention.lines[:2])
    names = [f"attn[{layer}]" for layer in range(6)]
    mean = data.sel(node=names).mean(["prompt"])
    np.testing.assert_allclose(direct, mean["clean_direct"], rtol=1e-5)
    np.testing.assert_allclose(drop, -mean["te"].mean("donor"), rtol=1e-4)
    assert mlp.get_title(loc="left") == "MLP"


def test_drop_vs_direct_counts_the_regions(data):
    sweep = as_sweep(data)
    attention = draw.drop_vs_direct(sweep)[0]
    places = sweep.of_kind("attn")
    share = float((-sweep.te[:, places] > sweep.clean[:, places]).mean())
    assert f"breakage {share:.0%}, repair {1 - share:.0%}" in attention.get_title(loc="left")
    offsets = np.asarray(attention.collections[0].get_offsets())
    assert len(offsets) == 40 * 6
    np.testing.assert_allclose(np.sort(offsets[:, 1]), np.sort(-sweep.te[:, places].ravel()))


def test_fits_have_the_summary_slope(data, summary):
    changed = dict(summary, nodes=[dict(row, slope=5.0) for row in summary["nodes"]])
    axis = draw.best_layer(data, changed, "attn[3]")
    fit = axis.lines[0]
    assert np.polyfit(fit.get_xdata(), fit.get_ydata(), 1)[0] == pytest.approx(5.0)
    text = axis.get_legend().get_texts()[0].get_text()
    assert text.startswith("slope +5.00 [")
    sweep = as_sweep(data)
    place = sweep.place("attn[3]")
    own = draw.best_layer(data, None, "attn[3]").lines[0]
    slope = np.polyfit(own.get_xdata(), own.get_ydata(), 1)[0]
    assert slope == pytest.approx(np.polyfit(sweep.clean[:, place], sweep.ce[:, place], 1)[0])


def test_the_waterfall_ends_at_the_total_effect(data):
    axis = draw.waterfall(data, "attn[3]")
    bars = [bar for bar in axis.patches if bar.get_width() == pytest.approx(0.62)]
    parts, total = bars[:-1], bars[-1]
    sweep = as_sweep(data)
    place = sweep.place("attn[3]")
    assert total.get_height() == pytest.approx(sweep.te[:, place].mean())
    assert sum(bar.get_height() for bar in parts) == pytest.approx(total.get_height(), abs=1e-5)
    assert parts[1].get_height() + parts[2].get_height() == pytest.approx(sweep.ce[:, place].mean(), abs=1e-5)


def test_the_map_shows_the_mean_response(data):
    axis, ratio = draw.coupling(data)
    shown = axis.images[0].get_array()
    assert shown.shape == (12, 12)
    mean = data["delta_de"].mean(["prompt", "donor"])
    assert shown[2, 5] == pytest.approx(float(mean.sel(node="attn[1]", responder="mlp[2]")), rel=1e-4)
    assert shown.mask[5, 2]
    carried = [bar.get_width() for bar in ratio.patches]
    assert carried == pytest.approx(participation_ratio(mean.values.astype(float)), rel=1e-4)
    assert 1 <= carried[0] <= 11


def test_variance_explained_and_the_share_above_the_drop(data, summary):
    variance, above = draw.explained(data)
    sweep = as_sweep(data)
    places = sweep.of_kind("attn")
    r2 = [np.corrcoef(sweep.clean[:, place], sweep.te[:, place])[0, 1] ** 2 for place in places]
    assert variance.lines[0].get_ydata() == pytest.approx(r2)
    share = (sweep.clean[:, places] > -sweep.te[:, places]).mean(axis=0)
    assert above.lines[0].get_ydata() == pytest.approx(share)
    for axis, values in ((variance, r2), (above, share)):
        ends = np.array([segment[:, 1] for segment in axis.collections[0].get_segments()])
        assert np.all(ends[:, 0] <= np.array(values) + 1e-9)
        assert np.all(ends[:, 1] >= np.array(values) - 1e-9)
        assert np.ptp(ends, axis=1).max() > 0.02
    rows = [dict(row, above_drop=0.25, above_drop_ci=[0.125, 0.375]) for row in summary["nodes"]]
    above = draw.explained(data, dict(summary, nodes=rows))[1]
    assert above.lines[0].get_ydata().tolist() == [0.25] * 6


def test_attention_and_mlp_responses_add_up(data):
    sweep = as_sweep(data)
    axes = draw.by_responder_kind(data, ["attn[1]", "mlp[2]"])
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["attn[1] ablated", "mlp[2] ablated"]
    attention, mlp = (np.asarray(axes[at].collections[0].get_offsets()) for at in (0, 2))
    place = sweep.place("attn[1]")
    assert attention[:, 1] + mlp[:, 1] == pytest.approx(sweep.ce[:, place], abs=1e-5)
    assert attention[:, 0] == pytest.approx(sweep.clean[:, place])
    labels = [axes[at].get_legend().get_texts()[0].get_text() for at in (0, 2)]
    slopes = [float(re.search(r"slope ([+−][\d.]+)", one)[1].replace("−", "-")) for one in labels]
    whole = regression(sweep.clean[:, place], sweep.ce[:, place]).slope
    assert sum(slopes) == pytest.approx(float(whole), abs=0.011)
    assert sum(int(re.search(r"([−\d]+)% of CE", one)[1].replace("−", "-")) for one in labels) in (99, 100, 101)
    # Without names: attention layers whose response is the most regular, in order.
    titles = [axis.get_title(loc="left") for axis in draw.by_responder_kind(data)[:3]]
    assert titles == sorted(titles)
    with pytest.raises(InputError, match="1 to 4"):
        draw.by_responder_kind(data, [])


def test_variants_stand_side_by_side(summary):
    other = dict(summary, nodes=[dict(row, slope=0.125, slope_ci=[0.0, 0.25]) for row in summary["nodes"]])
    axes = draw.variants("ablation", {"zero": summary, "mean": other}, ("slope", "te"))
    assert len(axes) == 4
    assert axes[0].lines[1].get_ydata().tolist() == [0.125] * 6
    assert axes[3].lines[0].get_ydata().tolist() == [row["te"] for row in summary["nodes"] if "mlp" in row["name"]]
    key = axes[0].figure.legends[0]
    assert [text.get_text() for text in key.get_texts()] == ["zero", "mean"]
    with pytest.raises(InputError, match="2 to 8"):
        draw.variants("ablation", {"zero": summary})
    with pytest.raises(InputError, match="did you mean 'slope'"):
        draw.variants("ablation", {"zero": summary, "mean": other}, ["slop"])


def test_the_example_shows_donors_and_their_mean(data):
    attention, mlp = draw.example(data, 7, "attn[3]")
    donors = [one for one in mlp.lines if one.get_linewidth() == 0.5]
    assert len(donors) == 4
    clean = data["clean_responder"].sel(responder="mlp[4]").values[7]
    delta = data["delta_de"].sel(node="attn[3]", responder="mlp[4]").values[7]
    assert [one.get_ydata()[4] for one in donors] == pytest.approx((clean + delta).tolist(), abs=1e-5)
    own = [one for one in attention.lines if one.get_linewidth() == 0.5]
    lost = data["clean_direct"].sel(node="attn[3]").values[7] + data["de"].sel(node="attn[3]").values[7]
    assert [one.get_ydata()[3] for one in own] == pytest.approx(lost.tolist(), abs=1e-5)


def test_donor_convergence_ends_at_the_full_mean(data):
    effects, slope = draw.donor_convergence(data, "attn[3]")
    sweep = as_sweep(data)
    place = sweep.place("attn[3]")
    assert effects.lines[0].get_ydata()[-1] == pytest.approx(sweep.te[:, place].mean())
    fit = regression(sweep.clean[:, place], sweep.ce[:, place])
    assert slope.lines[0].get_ydata()[-1] == pytest.approx(float(fit.slope))


def test_missing_donors_do_not_count(make_sweep):
    data = make_sweep(prompts=10)
    short = data.copy(deep=True)
    for name in ("te", "de", "ce", "norm", "delta_de"):
        short[name].values[3, :, 2:] = np.nan
    sweep = as_sweep(short)
    np.testing.assert_allclose(sweep.te[3], data["te"].values[3, :, :2].mean(1), rtol=1e-5)
    np.testing.assert_allclose(sweep.te[4], as_sweep(data).te[4])
    draw.example(short, 3)
    draw.donor_convergence(short)


def test_one_prompt_and_one_donor_can_be_plotted(make_sweep, make_summary):
    data = make_sweep(layers=3, prompts=1, donors=1)
    for name, make in ALL.items():
        if name not in ("donor_convergence", "compare", "variants", "best_layer", "ce_vs_direct", "slopes", "example"):
            style.svg(make(data, None), name)
    style.svg(draw.best_layer(data), "best")
    style.svg(draw.slopes(data), "slopes")
    style.svg(draw.example(data, 0), "example")
    style.svg(draw.ce_vs_direct(data), "ce")
    with pytest.raises(InputError, match="one donor only"):
        draw.donor_convergence(data)


def test_attention_alone_can_be_plotted(make_sweep, make_summary):
    data = make_sweep().sel(node=[f"attn[{layer}]" for layer in range(6)])
    assert len(draw.impact(data)) == 1
    style.svg(draw.slopes(data, make_summary(data)), "slopes")


def test_heads_stand_beside_each_other(make_sweep, make_summary):
    data = make_sweep(layers=4, prompts=12)
    assert draw.impact(data)[0].lines[0].get_linewidth() > 0
    names = [f"attn[{at // 4}].head[{at % 4}]" if at % 4 < 3 else f"mlp[{at // 4}]" for at in range(8)]
    data = data.assign_coords(node=names, responder=names)
    summary = make_summary(data)
    for axis in (draw.impact(data)[0], draw.slopes(data, summary)[0], draw.compare({"a": summary, "b": summary})[0]):
        line = axis.lines[0]
        assert line.get_linewidth() == 0
        assert len(set(line.get_xdata())) == len(line.get_xdata()) == 6
        assert np.all(np.abs(line.get_xdata() - np.repeat([0, 1], 3)) < 0.4)


def test_bad_input_is_refused(data, summary):
    with pytest.raises(UnknownNodeError, match=r"legal: attn\[0\]"):
        draw.waterfall(data, "attn[9]")
    with pytest.raises(InputError, match="legal: 0 to 39"):
        draw.example(data, 40)
    with pytest.raises(DataError, match="no norm"):
        draw.impact(data.drop_vars("norm"))
    with pytest.raises(DataError, match="no prompt"):
        draw.impact(data.isel(prompt=[]))
    with pytest.raises(InputError, match="2 to 8"):
        draw.compare({"one": summary})


def test_prompts_are_drawn_as_text(make_sweep, nasty):
    data = make_sweep(prompts=6, texts=[nasty] * 6)
    svg = style.svg(draw.example(data, 2), "example")
    assert "<script" not in svg
    assert "<img" not in svg
    assert "&lt;script&gt;" in svg
    assert "$x^2$" in svg  # a formula would have lost its dollars


def test_pictures_are_deterministic_small_and_follow_the_page(make_sweep):
    data = make_sweep(12, prompts=300)
    first, second = (style.svg(draw.drop_vs_direct(data), "a") for _ in range(2))
    assert first == second
    assert len(first) < 250_000
    assert "currentColor" in first
    assert style.INK not in first
    ids = re.findall(r'\bid="([^"]+)"', first)
    assert all(name.startswith("a-") for name in ids)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', first))
    assert used <= set(ids)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_saved(data, tmp_path, suffix):
    path = draw.save(draw.impact(data), tmp_path / "new" / f"impact.{suffix}")
    assert path.stat().st_size > 3000


def test_the_callers_style_is_left_alone(data):
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw.impact(data)
    assert dict(matplotlib.rcParams) == before


def test_intervals_cover():
    rng = np.random.default_rng(0)
    mean, half = interval(rng.normal(1.0, 2.0, (20, 4000)))
    assert np.mean(np.abs(mean - 1.0) <= half) == pytest.approx(0.95, abs=0.012)


def test_huge_slopes_of_early_layers_do_not_flatten_the_others(data, summary):
    wild = dict(summary, nodes=[dict(row) for row in summary["nodes"]])
    wild["nodes"][0] |= {"slope": -40.0, "slope_ci": [-75.0, -5.0]}
    axis = draw.compare({"one": wild, "two": summary})[0]
    low, high = axis.get_ylim()
    assert low <= -75  # still shown
    scale = axis.yaxis.get_transform()
    low, high, zero, one = scale.transform([low, high, 0.0, 1.0])
    assert (one - zero) / (high - low) > 0.15
    assert "logarithmic beyond ±1" in axis.figure.get_supxlabel().replace("\n", " ")
    assert "logarithmic" not in draw.compare({"one": summary, "two": summary})[0].figure.get_supxlabel()
