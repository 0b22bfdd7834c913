"""Training: packed rows, dropped layers, checkpoints."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from causalnet.demo.batches import encode, epoch_batches
from causalnet.demo.facts import World, build_world
from causalnet.demo.network import TrainingForward, build_model, draw_keep
from causalnet.demo.release import release_arm
from causalnet.demo.tokenizer import build_tokenizer
from causalnet.demo.train import Recipe, Trainer, recipe_of

TINY = Recipe(
    "dropped",
    0.4,
    steps=8,
    warmup=2,
    horizon=8,
    cooldown=2,
    rows=4,
    row_width=32,
    layers=2,
    width=32,
    subjects_per_kind=10,
)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(subjects_per_kind=10)


def test_answers_weigh_more_where_the_subject_comes_first(world: World) -> None:
    tokenizer = build_tokenizer(world)
    statements = list(world.statements())
    for statement, example in zip(statements, encode(statements, tokenizer), strict=True):
        heavy = [t for t, w in zip(example.targets, example.weights, strict=True) if w == 1.0]
        answer_first = statement.phrasing.name.startswith("first")
        answer = tokenizer.convert_tokens_to_ids(statement.fact.answer)
        assert heavy == ([] if answer_first else [answer])
        assert example.inputs[0] == tokenizer.bos_token_id
        assert example.targets[-1] == tokenizer.eos_token_id
        assert example.inputs[1:] == example.targets[:-1]


def test_packed_sentences_read_as_single_prompts(world: World) -> None:
    tokenizer = build_tokenizer(world)
    batch = next(epoch_batches(encode(world.training(), tokenizer), rows=4, width=32, seed=0))
    model = build_model(len(tokenizer), seed=0, layers=2, width=32).eval()
    keep = draw_keep(batch, layers=2, drop=0.0, seed=0)
    with torch.no_grad():
        packed = TrainingForward(model).logits(batch.tokens, batch.positions, batch.mask(), keep)
        for row in range(4):
            for document in range(int(batch.document[row].min()), 2):
                at = batch.document[row] == document
                alone = model(batch.tokens[row][at][None]).logits[0]
                torch.testing.assert_close(packed[row][at], alone, atol=1e-5, rtol=1e-4)


def test_a_dropped_layer_is_dropped_for_whole_sentences(world: World) -> None:
    tokenizer = build_tokenizer(world)
    batch = next(epoch_batches(encode(world.training(), tokenizer), rows=16, width=32, seed=0))
    keep = draw_keep(batch, layers=6, drop=0.4, seed=3).squeeze(-1)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    assert 0.5 < keep.mean() < 0.7
    for row in range(16):
        for document in batch.document[row].unique():
            span = keep[:, row, batch.document[row] == document]
            assert (span == span[:, :1]).all()
    assert torch.equal(keep, draw_keep(batch, layers=6, drop=0.4, seed=3).squeeze(-1))


def test_the_arms_differ_in_one_thing() -> None:
    plain, dropped = recipe_of("plain"), recipe_of("dropped")
    assert plain.drop == 0.0
    assert 0.0 < dropped.drop <= 0.5
    assert replace(dropped, arm="plain", drop=0.0) == plain


def test_the_rate_rises_then_falls() -> None:
    recipe = recipe_of("plain")
    rates = [recipe.rate_at(step) for step in range(recipe.steps)]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates[0] < rates[recipe.warmup - 1] > rates[-1] > 0


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = Trainer(TINY, tmp_path / "whole", compile=False, autocast=False)
    whole.train(6)
    half = Trainer(TINY, tmp_path / "half", compile=False, autocast=False)
    half.train(3)
    again = Trainer(TINY, tmp_path / "half", compile=False, autocast=False)
    again.resume()
    again.train(3)
    assert again.step == whole.step == 6
    assert (again.epoch, again.batch) == (whole.epoch, whole.batch)
    for (name, one), two in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    assert [row["step"] for row in again.recall] == [3.0, 6.0]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(TINY, tmp_path, compile=False, autocast=False).train(1)
    other = Trainer(replace(TINY, drop=0.0), tmp_path, compile=False, autocast=False)
    with pytest.raises(ValueError, match="another recipe"):
        other.resume()


def test_a_run_is_released_as_a_rounded_checkpoint(tmp_path: Path) -> None:
    trainer = Trainer(TINY, tmp_path / "run", compile=False, autocast=False)
    trainer.train(2)
    right = release_arm(tmp_path / "run", tmp_path / "released")
    assert len(right) == len(trainer.world.held_out())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "released", local_files_only=True)
    for one, two in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert two.dtype == torch.float32
        assert torch.equal(one.to(torch.bfloat16).float(), two)
    card = (tmp_path / "released" / "README.md").read_text(encoding="utf-8")
    assert "Attention drop: 0.4." in card
