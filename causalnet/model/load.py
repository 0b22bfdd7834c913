"""Load a Hugging Face causal LM for counterfactual work: local or hub, safetensors only, in eval mode."""

import json
from pathlib import Path
from typing import Any

from causalnet.errors import InputError, UnsupportedModelError, explain

__all__ = ["load_config", "load_model", "load_tokenizer"]

_DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")


def load_model(
    model: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a causal LM from a checkpoint folder or the hub.

    Parameters
    ----------
    model
        A folder with ``config.json`` and safetensors weights, or a hub name.
    dtype
        ``float32`` (default), ``float64``, ``bfloat16``, ``float16``, or ``auto`` for the checkpoint's own.
    device, device_map
        Where the model goes: one device, or a placement over several as in ``transformers``.
    revision
        Revision of a hub model.
    trust_remote_code
        Passed to ``transformers``; False unless you say so.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode.

    Raises
    ------
    InputError
        If there is no such folder, no config, no safetensors weights, or an unknown dtype or device.
    UnsupportedModelError
        If the checkpoint is not a causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if dtype not in _DTYPES:
        raise InputError(explain(f"unknown dtype {dtype!r}", legal=_DTYPES, got=dtype))
    _check_device(device)
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    _refuse_other_kinds(config, str(model))
    folder = _folder(model)
    if folder is not None:
        _check_weights(folder)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(folder or model),
            dtype="auto" if dtype == "auto" else getattr(torch, dtype),
            revision=revision or "main",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{model}: the model could not be loaded: {_first_line(error)}") from error
    if device_map is None:
        loaded = loaded.to(device)
    return loaded.eval()


def load_config(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a config from a checkpoint folder, a ``config.json`` or the hub.

    Raises
    ------
    InputError
        If there is no such folder or file, or it holds no readable config.
    """
    from transformers import AutoConfig

    folder = _folder(model)
    if folder is not None:
        file = folder if folder.is_file() else folder / "config.json"
        if not file.is_file():
            raise InputError(
                f"{folder}: no config.json in this folder; a checkpoint folder holds config.json and *.safetensors "
                "(save one with model.save_pretrained)"
            )
        _check_json(file)
        model = file
    try:
        return AutoConfig.from_pretrained(str(model), revision=revision or "main", trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{model}: the config could not be read: {_first_line(error)}") from error


def load_tokenizer(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises
    ------
    InputError
        If the folder or the hub has none.
    """
    from transformers import AutoTokenizer

    folder = _folder(model)
    try:
        return AutoTokenizer.from_pretrained(
            str(folder or model), revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{model}: no tokenizer could be loaded: {_first_line(error)}") from error


def _folder(model: str | Path) -> Path | None:
    """Return the local path that ``model`` names, None for a hub name; refuse a path that does not exist."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    # A hub name is NAME or OWNER/NAME; anything else can only have been meant as a path.
    text = str(model)
    if isinstance(model, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or path.parent.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        if isinstance(model, Path) or text.count("/") != 0 or path.name in siblings or "." in text:
            raise InputError(
                explain(
                    f"no model folder {text!r}",
                    legal=sorted(siblings)[:12],
                    got=path.name,
                    mend="give a folder with config.json and *.safetensors, or a hub name such as openai-community/gpt2",
                )
            )
    return None


def _check_json(file: Path) -> None:
    try:
        loaded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON: {_first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{file}: a config is a JSON object, this is a {type(loaded).__name__}")


def _check_weights(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder}: this is a file; weights are loaded from a checkpoint folder")
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickled:
        raise InputError(
            f"{folder}: only pickled weights ({', '.join(pickled[:3])}); pickles can run code when they are loaded, so "
            "only safetensors are read; convert with model.save_pretrained(folder) where you trust the source"
        )
    raise InputError(f"{folder}: no *.safetensors in this folder; save the weights with model.save_pretrained(folder)")


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(explain(f"unknown device {device!r}", legal=["cpu", "cuda", "cuda:0"], got=device)) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: no CUDA device on this machine; use --device cpu")


def _refuse_other_kinds(config: Any, name: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name}: {config.model_type} is an encoder–decoder; causalnet compiles decoder-only causal language models"
        )
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not remote:
        raise UnsupportedModelError(f"{name}: {config.model_type} is not a causal language model")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
