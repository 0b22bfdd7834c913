"""Loading: safetensors only, quiet, and one clear line when something is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from causalnet.errors import InputError, UnsupportedModelError
from causalnet.model.compile import compile_model
from causalnet.model.load import load_config, load_model, load_tokenizer

TOKENIZER = Path("../shared/data/gpt2_tokenizer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from causalnet.model.small import small_model

    place = tmp_path_factory.mktemp("models") / "small-llama"
    small_model("llama").save_pretrained(place)
    return place


def one_line(message):
    return "\n" not in str(message.value) and len(str(message.value)) < 500


def test_loads_quietly_in_eval_mode(folder, capfd):
    model = load_model(folder)
    assert not model.training
    assert model.dtype == torch.float32
    assert compile_model(model).name == str(folder)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Loading weights" not in err


def test_dtype_and_attention_are_passed_on(folder):
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype="float64", attn_implementation="eager").config._attn_implementation == "eager"
    assert load_model(folder, dtype="auto").dtype == torch.float32


def test_settings_of_transformers_are_put_back(folder):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_config_of_a_folder_and_of_a_file(folder):
    assert load_config(folder).model_type == load_config(folder / "config.json").model_type == "llama"


@pytest.mark.parametrize("load", [load_model, load_config])
def test_a_folder_that_does_not_exist(folder, load):
    with pytest.raises(InputError, match=r"no model folder '.*small-lama'; did you mean 'small-llama'\?") as message:
        load(folder.parent / "small-lama")
    assert one_line(message)
    with pytest.raises(InputError, match="no model folder"):
        load("./nowhere/model")


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json in this folder.*save_pretrained") as message:
        load_model(tmp_path)
    assert one_line(message)


def test_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="a config is a JSON object, this is a list"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}', encoding="utf-8")
    with pytest.raises(InputError, match="the config could not be read") as message:
        load_model(tmp_path)
    assert one_line(message)


def test_pickles_are_refused(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    with pytest.raises(InputError, match=r"only pickled weights \(pytorch_model\.bin\).*convert with") as message:
        load_model(tmp_path)
    assert one_line(message)


def test_no_weights_at_all(folder, tmp_path):
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(InputError, match=r"no \*\.safetensors in this folder"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="this is a file; weights are loaded from a checkpoint folder"):
        load_model(tmp_path / "config.json")


def test_weights_that_are_missing_are_no_random_numbers(folder, tmp_path):
    place = tmp_path / "deeper"
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 3
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"the checkpoint lacks \d+ of the model's weights \(model\.layers\.2"):
        load_model(place)


def test_damaged_weights(folder, tmp_path):
    place = tmp_path / "damaged"
    shutil.copytree(folder, place)
    (place / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(InputError, match="the model could not be loaded"):
        load_model(place)


def test_other_kinds_of_models(tmp_path):
    for kind, why in (("t5", "encoder–decoder"), ("vit", "not a causal language model")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        with pytest.raises(UnsupportedModelError, match=why):
            load_model(tmp_path)


def test_dtypes_and_devices(folder):
    with pytest.raises(InputError, match=r"unknown dtype 'float31'; did you mean 'float32'\?"):
        load_model(folder, dtype="float31")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        load_model(folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device on this machine"):
            load_model(folder, device="cuda")


def test_hub_names_are_told_from_paths(monkeypatch, folder):
    from causalnet.model import load

    monkeypatch.setattr(load, "_reachable", lambda: False)
    with pytest.raises(InputError, match=r"openai-community/gpt2-never-there: the config could not be read") as message:
        load.load_config("openai-community/gpt2-never-there")
    assert one_line(message)
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match="there is no local folder 'small-lama' either; did you mean 'small-llama'"):
        load.load_config("small-lama")
    assert load.load_config("small-llama").model_type == "llama"
    with pytest.raises(InputError, match="no model folder"):
        load.load_config("small-llama/checkpoint-9")


def test_tokenizers(folder):
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_tokenizer(folder)
    if not TOKENIZER.is_dir():
        pytest.skip("the tokenizer is not on this machine")
    assert load_tokenizer(TOKENIZER)("The cat").input_ids == [464, 3797]
