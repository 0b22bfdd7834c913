"""evaluate: donors, pools, targets, subgroups, several queries, intervals, and what is refused."""

import warnings

import numpy as np
import pytest
import torch

import causalnet as cn
from causalnet import E, attn, do, last, logit, prompt, target, zero
from causalnet.effects import FewPromptsWarning
from causalnet.effects.statistics import crossed_mean_interval, mean_interval
from causalnet.errors import ExpressionError, InputError, PromptError, UnknownNameError, UnknownNodeError
from causalnet.prompts import choose_donors

pytestmark = pytest.mark.filterwarnings("ignore::causalnet.effects.FewPromptsWarning")

TE = "TE(attn[1]@last = resample)"
NAMES = ("Mary", "John", "Ann", "Tom")
THINGS = ("key", "book", "lamp", "stone")


@pytest.fixture(scope="module")
def many():
    """Forty prompts of two lengths, with a feature of two values."""
    rows = []
    for place in range(40):
        one, other, thing = NAMES[place % 4], NAMES[(place // 4) % 4], THINGS[(place // 8) % 4]
        text = f"{one} gave the {thing} to {other}" if place % 2 else f"when {one} saw {other} in Rome the {thing}"
        rows.append({"prompt": text, "kind": "gift" if place % 2 else "sight", "answer": thing})
    return cn.Prompts.from_records(rows)


def tops(model, prompts):
    ids = [model.tokenizer(text)["input_ids"] for text in prompts.texts]
    with torch.no_grad():
        return ids, [int(model.mechanisms.hf(input_ids=torch.tensor([row])).logits[0, -1].argmax()) for row in ids]


def test_donors_are_the_documented_ones(small, many):
    ids, targets = tops(small, many)
    found = small.evaluate(TE, many, donors=4, seed=5)
    expected = choose_donors(targets, donors=4, seed=5, keys=[tuple(row) for row in ids])
    assert found.donor_index.tolist() == expected.tolist()
    assert found.targets == tuple(targets)
    assert found.target_texts[0] == small.tokenizer.decode([targets[0]])


def test_every_position_needs_donors_of_the_same_length(small, many):
    found = small.evaluate("TE(attn[1] = resample)", many, donors=4)
    lengths = [len(text.split()) for text in many.texts]
    pairs = [(row, donor) for row, some in enumerate(found.donor_index) for donor in some if donor >= 0]
    assert pairs and all(lengths[donor] == lengths[row] for row, donor in pairs)
    # An open range covers more tokens in longer prompts, too.
    open_range = small.evaluate("TE(attn[1]@2: = resample)", many, donors=4)
    assert open_range.donor_index.tolist() == found.donor_index.tolist()
    counted = small.evaluate("TE(attn[1]@-2: = resample)", many, donors=4)
    assert counted.donor_index.tolist() != found.donor_index.tolist()


def test_no_donors_for_zero_and_mean(small, many):
    for value in ("zero", "mean"):
        found = small.evaluate(f"TE(attn[1]@last = {value})", many)
        assert found.units_table.shape == (40, 1)
        assert found.donor_index.size == 0


def test_donors_that_are_short_are_counted(small, many):
    few = many.take(4)
    found = small.evaluate(TE, few, donors=15)
    assert found.donor_index.shape[1] <= 3
    used = (found.donor_index >= 0).sum(1)
    assert np.isnan(found.units_table).sum() == (found.donor_index < 0).sum()
    assert found.values == pytest.approx(np.nanmean(found.units_table, axis=1))
    assert any(f"fewer than 15 eligible donors (the fewest: {used.min()})" in note for note in found.notes)


def test_no_donor_names_the_prompt(small):
    with pytest.raises(PromptError, match=r"prompt 0 'Mary gave the key'.*no other prompt"):
        small.evaluate(TE, ["Mary gave the key"])
    # zero needs none
    with pytest.warns(FewPromptsWarning):
        found = small.evaluate("TE(attn[1]@last = zero)", ["Mary gave the key"])
    assert found.n == 1 and np.isnan(found.std_error) and np.isnan(found.ci).all()
    assert found.to_dict()["std_error"] is None
    assert "no interval" in str(found)


def test_target_is_the_answer_where_asked(small, many):
    found = small.evaluate("E[logit(target)]", many, target="answer")
    ids, _ = tops(small, many)
    for row, answer in zip(range(4), many.answers, strict=False):
        with torch.no_grad():
            logits = small.mechanisms.hf(input_ids=torch.tensor([ids[row]])).logits[0, -1]
        token = small.tokenizer.convert_tokens_to_ids(answer)
        assert found.targets[row] == token
        assert found.values[row] == pytest.approx(float(logits[token] - logits.mean()), abs=1e-6)
    donors = small.evaluate(TE, many, target="answer", donors=6)
    for row, some in enumerate(donors.donor_index):
        assert all(many.answers[donor] != many.answers[row] for donor in some if donor >= 0)
    with pytest.raises(PromptError, match="has no answer token"):
        small.evaluate("E[logit(target)]", ["Mary gave the key"], target="answer")


def test_a_pool_of_other_prompts(small, many):
    own, pool = many.take(5), many[20:]
    found = small.evaluate(TE, own, pool=pool, donors=3)
    ids, targets = tops(small, own)
    other_ids, other_targets = tops(small, pool)
    from causalnet.prompts import DonorPool

    source = DonorPool(other_targets, keys=[tuple(row) for row in other_ids])
    expected = choose_donors(targets, donors=3, seed=0, keys=[tuple(row) for row in ids], pool=source)
    assert found.donor_index.tolist() == expected[:, : found.donor_index.shape[1]].tolist()
    mean = small.evaluate("E[sigma | do(mlp[0]@last = mean)]", own, pool=pool)
    alone = small.evaluate("E[sigma | do(mlp[0]@last = mean)]", own)
    assert not np.allclose(mean.values, alone.values)


def test_a_pool_that_is_too_short(small):
    own, pool = ["when Mary saw John in Rome the key"], cn.Prompts.from_texts(["Tom saw the key", "Ann gave"])
    assert np.isfinite(small.evaluate("TE(attn[1]@0 = mean)", own, pool=pool).value)
    with pytest.raises(PromptError, match="covers 8 tokens, but no prompt of the pool has more than 4"):
        small.evaluate("TE(attn[1] = mean)", own, pool=pool)
    with pytest.raises(InputError, match="position @3 does not exist in a prompt of 2 tokens"):
        small.evaluate("TE(attn[1]@3 = mean)", own, pool=pool)


def test_donors_with_the_same_target_where_asked(small, many):
    strict, loose = (small.evaluate(TE, many, donors=39, same_target_donors=same) for same in (False, True))
    assert (loose.donor_index >= 0).sum() > (strict.donor_index >= 0).sum()
    alike = [loose.targets[donor] == loose.targets[row] for row, some in enumerate(loose.donor_index) for donor in some]
    assert any(alike)


def test_strata(small, many):
    found = small.evaluate(TE, many, strata="kind", donors=5)
    kinds = many.feature("kind")
    assert all(kinds[donor] == kinds[row] for row, some in enumerate(found.donor_index) for donor in some if donor >= 0)
    with pytest.raises(UnknownNameError, match="feature 'knd'"):
        small.evaluate(TE, many, strata="knd")


def test_interval_is_the_studentised_one(small, many):
    found = small.evaluate(TE, many, donors=3, seed=2, level=0.9)
    expected = mean_interval(found.values, level=0.9, seed=2)
    assert (found.value, found.std_error) == (float(expected.estimate), float(expected.se))
    assert found.ci == (float(expected.low), float(expected.high))
    assert "conditional on the donor pool" in str(found)
    assert float(found) == pytest.approx(np.mean(np.nanmean(found.units_table, axis=1)), abs=1e-12)


def test_random_donors_widen_the_claim(small, many):
    fixed, random = small.evaluate(TE, many, donors=3), small.evaluate(TE, many, donors=3, pool="random")
    assert fixed.units_table.tolist() == random.units_table.tolist()
    expected = crossed_mean_interval(random.units_table, random.donor_index, seed=0)
    assert random.ci == (float(expected.low), float(expected.high))
    assert random.estimand == "over prompts and donors"
    nothing = small.evaluate("TE(attn[1]@last = zero)", many, pool="random")
    assert any("draws no donors" in note for note in nothing.notes)
    group = small.evaluate(
        'TE(attn[1]@last = resample; logit(target), prompt.kind == "gift")', many, pool="random", donors=3
    )
    assert group.n == 20 and np.isfinite(group.ci).all()
    # The same units, whoever else was run beside them.
    rows = list(group.prompts)
    assert group.units_table.tolist() == pytest.approx(random.units_table[rows], nan_ok=True)


def test_few_prompts_warn(small, many):
    with pytest.warns(FewPromptsWarning, match="29 prompts"):
        small.evaluate("E[sigma]", many.take(29))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.evaluate("E[sigma]", many.take(30))


def test_subgroups(small, many):
    whole = small.evaluate("E[sigma]", many)
    gift = small.evaluate('E[sigma | prompt.kind == "gift"]', many)
    assert gift.n == 20 and gift.prompts == tuple(range(1, 40, 2))
    assert gift.values.tolist() == whole.values[1::2].tolist()
    query = E[cn.sigma | (prompt.kind == "gift")] - E[cn.sigma | (prompt.kind == "sight")]
    difference = small.evaluate(query, many)
    expected = whole.values[1::2].mean() - whole.values[::2].mean()
    assert difference.value == pytest.approx(expected, abs=1e-12)
    spread = np.sqrt(whole.values[1::2].var(ddof=1) / 20 + whole.values[::2].var(ddof=1) / 20)
    assert difference.std_error == pytest.approx(spread, rel=0.05)
    assert difference.ci[0] < expected < difference.ci[1]
    with pytest.raises(PromptError, match=r"no prompt satisfies.*kind is gift, sight"):
        small.evaluate('E[sigma | prompt.kind == "gfit"]', many)
    one = 'TE(attn[1]@last = resample; sigma, prompt.kind == "{}")'
    both = f"{one.format('gift')} - {one.format('sight')}"
    with pytest.raises(InputError, match="each subgroup by itself"):
        small.evaluate(both, many, pool="random", donors=2)


def test_several_queries_share_worlds_and_answer_as_alone(small, many):
    texts = [
        "TE(attn[1]@last = resample)",
        "DE(attn[1]@last = resample)",
        "CE(attn[1]@last = resample)",
        "NORM(attn[1]@last = resample)",
        "TE(attn[1] = resample)",
        "TE(attn[1]@last = zero)",
        "TE(embed@0 = noise(1.0))",
    ]
    few = many.take(12)
    together = small.evaluate(texts, few, donors=2)
    assert [one.expression for one in together] == texts
    for text, one in zip(texts, together, strict=True):
        alone = small.evaluate(text, few, donors=2)
        assert one.units_table == pytest.approx(alone.units_table, abs=1e-6, nan_ok=True)
        assert one.ci == pytest.approx(alone.ci, abs=1e-5)
        assert one.donor_index.tolist() == alone.donor_index.tolist()
    # natural, do(s), s with everything held, s with the norm held; and zero, which draws nothing
    assert together[0].how["worlds"] == 5
    te, de, ce, norm = (one.units_table for one in together[:4])
    assert te == pytest.approx(de + ce + norm, abs=1e-6, nan_ok=True)


def test_worlds_without_donors_are_the_same_in_every_draw(small, many):
    found = small.evaluate(
        "E[sigma | do(attn[1]@last = resample)] - E[sigma | do(attn[1]@last = zero)]", many, donors=3
    )
    first = small.evaluate("E[sigma | do(attn[1]@last = resample)]", many, donors=3)
    second = small.evaluate("E[sigma | do(attn[1]@last = zero)]", many)
    assert found.units_table == pytest.approx(first.units_table - second.units_table, abs=1e-6, nan_ok=True)


def test_vectors(small, many):
    few = many.take(3)
    width = small.mechanisms.width
    zero_vector = small.evaluate('TE(attn[1]@last = value("v"))', few, vectors={"v": np.zeros(width)})
    ablated = small.evaluate("TE(attn[1]@last = zero)", few)
    assert zero_vector.values == pytest.approx(ablated.values, abs=1e-9)
    each = torch.zeros(3, width)
    by_prompt = small.evaluate('TE(attn[1]@last = value("v"))', few, vectors={"v": each})
    assert by_prompt.values == pytest.approx(ablated.values, abs=1e-9)
    with pytest.raises(UnknownNameError, match="'w'"):
        small.evaluate('TE(attn[1]@last = value("w"))', few, vectors={"v": each})
    with pytest.raises(InputError, match="has shape"):
        small.evaluate('TE(attn[1]@last = value("v"))', few, vectors={"v": [1.0, 2.0]})
    with pytest.raises(InputError, match="no vector of numbers"):
        small.evaluate('TE(attn[1]@last = value("v"))', few, vectors={"v": "abc"})


def test_tokens_that_outcomes_name(small, many):
    few = many.take(3)
    by_word, by_number = small.evaluate(['E[logit(" Mary")]', "E[logit(1)]"], few)
    assert by_word.values.tolist() == by_number.values.tolist()
    with pytest.raises(InputError, match=r'" Mary John" is not one token but 2: "Mary", "John"'):
        small.evaluate('E[logit(" Mary John")]', few)
    with pytest.raises(InputError, match="not in the tokenizer's vocabulary"):
        small.evaluate('E[logit("Zanzibar")]', few)
    with pytest.raises(InputError, match="predicts tokens 0 to 22"):
        small.evaluate("E[logit(23)]", few)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"donors": 0}, InputError, "donors must be a whole number of at least 1"),
        ({"donors": True}, InputError, "donors"),
        ({"seed": -1}, InputError, "seed"),
        ({"target": "anser"}, InputError, "did you mean 'answer'"),
        ({"pool": "rand"}, InputError, "unknown donor pool 'rand'"),
        ({"level": 1.0}, InputError, "between 0 and 1"),
        ({"vectors": [1]}, InputError, "map names"),
    ],
)
def test_arguments_are_checked(small, many, options, error, words):
    with pytest.raises(error, match=words):
        small.evaluate(TE, many, **options)


def test_mistakes_are_found_before_anything_runs(small, many, monkeypatch):
    import causalnet.effects.estimate as estimate

    def never(*_, **__):
        raise AssertionError("something was run")

    monkeypatch.setattr(estimate, "run", never)
    for query, error, words in [
        ("TE(attn[4]@last = zero)", UnknownNodeError, "layer 4"),
        ("TE(attn[1]@subject = zero)", UnknownNameError, "span named 'subject'"),
        ('TE(attn[1]@last = patch("x"))', UnknownNameError, "'x'"),
        ("E[sigma | prompt.knd == 1]", UnknownNameError, "did you mean 'kind'"),
        ("TE(attn[1]@last = zer)", ExpressionError, "did you mean 'zero'"),
        (E[logit(target) @ cn.pos[0] | do(attn[1] @ last << zero)], ExpressionError, "read before every position"),
        ([], ExpressionError, "no query"),
        (3, ExpressionError, "3 is no query"),
        (logit(target), ExpressionError, "no query"),
    ]:
        with pytest.raises(error, match=words):
            small.evaluate(query, many)
    with pytest.raises(PromptError, match="list of texts"):
        small.evaluate(TE, "Mary gave the key")
    with pytest.raises(PromptError, match="no prompts"):
        small.evaluate(TE, [])
    with pytest.raises(PromptError, match="more than the model's context"):
        small.evaluate("E[sigma]", ["key " * 65])


def test_spans_and_pairs_are_looked_for_only_when_used(small):
    records = [
        {"prompt": "Mary saw Mary", "subject": "Mary", "corrupt": "the " * 80},
        {"prompt": "Tom saw the key", "subject": "Tom", "corrupt": "the " * 80},
    ]
    prompts = cn.Prompts.from_records(records)
    assert small.evaluate("TE(attn[1]@last = zero)", prompts).n == 2
    with pytest.raises(PromptError, match="ambiguous"):
        small.evaluate("TE(attn[1]@subject = zero)", prompts)
    with pytest.raises(PromptError, match="context"):
        small.evaluate('TE(attn[1]@last = patch("corrupt"))', prompts)


def test_overridden_assignments_are_told(small, many):
    found = small.evaluate("TE(attn[:]@last = zero, attn[1]@last = mean)", many.take(3))
    assert any("attn[1]" in note for note in found.notes)


def test_plan_costs_nothing_and_tells_the_cost(small, many, monkeypatch):
    calls = []
    handle = small.mechanisms.hf.register_forward_pre_hook(lambda *_: calls.append(1))
    planned = small.plan(TE, many, donors=3)
    handle.remove()
    assert not calls
    assert planned.draws == 3 and "token-layers" in str(planned)
    found = small.evaluate(TE, many, donors=3)
    assert found.how["rows"] == planned.rows == 120
    assert found.how["share_of_full_forward"] == planned.share
    both = small.plan([TE, "TE(attn[1] = resample)"], many)
    assert isinstance(both, tuple) and len(both) == 2


def test_progress_and_memory(small, many):
    seen = []
    whole = small.evaluate(TE, many, donors=3)
    cut = small.evaluate(TE, many, donors=3, memory=1, progress=lambda done, total: seen.append((done, total)))
    assert cut.units_table == pytest.approx(whole.units_table, abs=1e-6, nan_ok=True)
    assert seen[-1] == (120, 120) and seen == sorted(seen)
