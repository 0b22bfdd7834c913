"""Load a Hugging Face causal LM for counterfactual work: local or hub, safetensors only, in eval mode."""

import json
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import StrictDataclassError

from causalnet.errors import InputError, UnsupportedModelError, explain, nearest

__all__ = ["load_config", "load_model", "load_tokenizer"]

_DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FAILURES = (
    *(OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError),
    StrictDataclassError,
)
"""What ``transformers`` raises for a checkpoint that it cannot read."""


def load_model(
    model: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
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
    attn_implementation
        ``"eager"``, ``"sdpa"``, … as in ``transformers``; default the model's own choice.

    Returns
    -------
    transformers.PreTrainedModel
        In eval mode.

    Raises
    ------
    InputError
        If there is no such folder, no config, no safetensors weights (or not all of them), or an unknown
        dtype or device.
    UnsupportedModelError
        If the checkpoint is not a causal language model.
    """
    import torch
    from safetensors import SafetensorError

    if dtype not in _DTYPES:
        raise InputError(explain(f"unknown dtype {dtype!r}", legal=_DTYPES, got=dtype))
    _check_device(device)
    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    _refuse_other_kinds(config, str(model))
    folder = _folder(model)
    if folder is not None:
        _check_weights(folder)
    options = _hub_options(model, revision)
    options |= {"device_map": device_map, "attn_implementation": attn_implementation}
    auto: Any = _auto("AutoModelForCausalLM")
    try:
        with _quiet():
            loaded, report = auto.from_pretrained(
                str(folder or model),
                dtype="auto" if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **{name: value for name, value in options.items() if value is not None},
            )
    except (*_FAILURES, SafetensorError) as error:
        raise InputError(f"{model}: the model could not be loaded: {_first_line(error)}{_hint(model)}") from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise InputError(
            f"{model}: the checkpoint lacks {len(missing)} of the model's weights ({shown}), which would be random; "
            "is it complete, and of this architecture?"
        )
    if device_map is None:
        loaded = loaded.to(device)
    if loaded.dtype == torch.float64 and hasattr(loaded, "set_experts_implementation"):
        loaded.set_experts_implementation("eager")  # the grouped kernels have no float64
    return loaded.eval()


def load_config(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a config from a checkpoint folder, a ``config.json`` or the hub.

    Raises
    ------
    InputError
        If there is no such folder or file, or it holds no readable config.

    Examples
    --------
    >>> load_config("./no/such/folder")
    Traceback (most recent call last):
        ...
    causalnet.errors.InputError: no model folder './no/such/folder'; give a folder with config.json and ...
    """
    folder, options = _folder(model), _hub_options(model, revision)
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
        with _quiet():
            return _auto("AutoConfig").from_pretrained(str(model), trust_remote_code=trust_remote_code, **options)
    except _FAILURES as error:
        raise InputError(f"{model}: the config could not be read: {_first_line(error)}{_hint(model)}") from error


def load_tokenizer(model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that belongs to a model.

    Raises
    ------
    InputError
        If the folder or the hub has none.
    """
    folder, options = _folder(model), _hub_options(model, revision)
    try:
        with _quiet():
            return _auto("AutoTokenizer").from_pretrained(
                str(folder or model), trust_remote_code=trust_remote_code, **options
            )
    except _FAILURES as error:
        raise InputError(f"{model}: no tokenizer could be loaded: {_first_line(error)}{_hint(model)}") from error


def _auto(name: str) -> Any:
    """Return an ``Auto…`` class; importing ``transformers`` takes seconds, so only when something is loaded."""
    import transformers

    return getattr(transformers, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep loading bars, log lines and warnings of ``transformers`` off the terminal, stdout above all."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _folder(model: str | Path) -> Path | None:
    """Return the local path that ``model`` names, None for a hub name; refuse a path that does not exist."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    text = str(model)
    # A hub name is NAME or OWNER/NAME, and OWNER is no folder here; anything else was meant as a path.
    hub = _HUB_NAME.fullmatch(text) and not text.endswith((".json", ".safetensors"))
    if hub and not isinstance(model, Path) and ("/" not in text or not path.parent.is_dir()):
        return None
    raise InputError(
        explain(
            f"no model folder {text!r}",
            legal=_siblings(path),
            got=path.name,
            mend="give a folder with config.json and *.safetensors, or a hub name (openai-community/gpt2)",
        )
    )


def _siblings(path: Path) -> list[str]:
    """Return the model folders that lie where ``path`` was looked for."""
    if not path.parent.is_dir():
        return []
    return sorted(entry.name for entry in path.parent.iterdir() if (entry / "config.json").is_file())


def _hint(model: str | Path) -> str:
    """Return the nearest local model, for a hub name that may have been meant as a folder."""
    path = Path(model)
    guess = None if path.exists() else nearest(path.name, _siblings(path))
    return f"; there is no local folder {str(model)!r} either; did you mean {guess!r}?" if guess else ""


def _hub_options(model: str | Path, revision: str | None) -> dict[str, Any]:
    """Return options for a hub name: where the hub cannot be reached, only its cache is looked at, at once."""
    options: dict[str, Any] = {"revision": revision or "main"}
    if _folder(model) is None and not _reachable():
        options["local_files_only"] = True
    return options


def _reachable() -> bool:
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        # A proxy resolves names by itself.
        return any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    return True


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
