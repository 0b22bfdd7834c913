"""The embedded models, their tokenizer and their prompts, as shipped."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from causalnet.demo import ARMS, model_path, prompts_path
from causalnet.demo.facts import build_world

PROMPTS = [json.loads(line) for line in prompts_path().read_text(encoding="utf-8").splitlines()]


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(ValueError, match="the arms are plain, dropped"):
        model_path("other")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, causalnet.demo; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("arm", ARMS)
def test_a_release_is_small_and_holds_no_pickle(arm: str) -> None:
    files = [path for path in model_path(arm).rglob("*") if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= {
        path.name for path in files
    }
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    with safe_open(model_path(arm) / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("arm", ARMS)
def test_the_model_recalls_the_fixed_prompts(arm: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(arm), local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path(arm), local_files_only=True)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.float32
    for record in PROMPTS[::5]:
        tokens = torch.tensor([tokenizer(record["prompt"])["input_ids"]])
        with torch.no_grad():
            top = int(model(tokens).logits[0, -1].argmax())
        assert tokenizer.decode([top]) == record["answer"], record["prompt"]


def test_the_arms_share_their_tokenizer() -> None:
    one, two = (json.loads((model_path(arm) / "tokenizer.json").read_text("utf-8")) for arm in ARMS)
    assert one == two


def test_the_tokenizer_has_one_token_a_word() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_path("plain"), local_files_only=True)
    for word in build_world().vocabulary():
        assert tokenizer.convert_ids_to_tokens(tokenizer(word)["input_ids"]) == ["<bos>", word]
    for record in PROMPTS:
        ids = tokenizer(record["prompt"])["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == record["prompt"]
        assert len(ids) <= 16
        answer = tokenizer(f" {record['answer']}", add_special_tokens=False)["input_ids"]
        assert len(answer) == 1
        assert tokenizer.unk_token_id not in [*ids, *answer]


def test_the_fixed_prompts_are_held_out_and_balanced() -> None:
    assert 1000 <= len(PROMPTS) <= 1200
    assert len({record["prompt"] for record in PROMPTS}) == len(PROMPTS)
    held_out = {
        (s.prompt, s.fact.answer, s.fact.subject, s.fact.relation.name, s.phrasing.name)
        for s in build_world().held_out()
    }
    for record in PROMPTS:
        assert tuple(record[k] for k in ("prompt", "answer", "subject", "relation", "phrasing")) in held_out
    relations = [record["relation"] for record in PROMPTS]
    assert min(relations.count(r) for r in set(relations)) >= 0.08 * len(PROMPTS)
    assert len(set(relations)) >= 8
