"""The models of a study: loaded when they are needed, kept while they fit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from causalnet.model.identity import weights
from causalnet.studies.options import Options, bytes_of

if TYPE_CHECKING:
    from causalnet.model.mechanism import Mechanisms

__all__ = ["Loaded", "Models"]


class Loaded:
    """One compiled model, its tokenizer, and the digest of its weights."""

    def __init__(self, path: str, name: str, options: Options) -> None:
        from causalnet.model.compile import compile_model
        from causalnet.model.load import load_model, load_tokenizer

        spread = options.device == "auto"  # over all devices that there are, where one is too small
        where: dict[str, Any] = {"device_map": "auto"} if spread else {"device": options.device}
        model = load_model(path, dtype=options.dtype, **where)
        self.tokenizer: Any = load_tokenizer(path)
        self.mechanisms: Mechanisms = compile_model(model, name=name or Path(path).expanduser().resolve().name)
        self.weights = weights(model)
        self.bytes = sum(one.numel() * one.element_size() for one in model.parameters())


class Models:
    """Models by checkpoint and name; the oldest is forgotten where all together would outgrow the memory."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.held: dict[tuple[str, str], Loaded] = {}

    def take(self, path: str, name: str) -> Loaded:
        """Return a compiled model, loaded now or before."""
        key = (path, name)
        if key not in self.held:
            found = Loaded(path, name, self.options)
            room = bytes_of(self.options.memory) - found.bytes
            while self.held and sum(one.bytes for one in self.held.values()) > room:
                self.held.pop(next(iter(self.held)))
            self.held[key] = found
        return self.held[key]
