"""From what was measured of the layers to the parts that a record names.

A record says things once for all layers, in the words of the config: ``sliding_window`` and not 4096,
``num_attention_heads`` and not 32.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from causalnet.errors import UnsupportedModelError
from causalnet.model.anatomy import Found
from causalnet.model.layer_probe import Call
from causalnet.model.record import Part, Window, default_window, field_of

__all__ = ["named", "numbers", "parts_of"]

_FACTOR = re.compile("mult|scal|factor|resid|alpha|beta")


def numbers(config: Any) -> dict[str, Any]:
    """Return the fields of a config that are numbers."""
    items = config.to_dict().items()
    found = {name: v for name, v in items if isinstance(v, int | float) and not isinstance(v, bool)}
    return found


def named(factor: float, fields: dict[str, Any]) -> float | str:
    """Return a factor as the config field that it is, or is one over; as a number where there is none."""
    if abs(factor - 1.0) < 1e-6:
        return 1.0
    likely = {name: value for name, value in fields.items() if _FACTOR.search(name) and value not in (0, 1)}
    for name, value in likely.items():
        if abs(value - factor) <= 1e-6 * abs(factor):
            return name
    for name, value in likely.items():
        if abs(1.0 / value - factor) <= 1e-6 * abs(factor):
            return f"/{name}"
    return float(f"{factor:.7g}")


def parts_of(
    config: Any, calls: Sequence[Call], found: Sequence[Found | None], cached: tuple[set[int], set[int]], length: int
) -> tuple[Part, ...]:
    """Turn what was found in every layer into the few parts that a record names.

    Parameters
    ----------
    config
        Config of the text model.
    calls
        One captured call of each layer.
    found
        What was measured of one mechanism in each layer.
    cached
        Layers that hand keys and values to a cache, and those of them that need nothing else of the past.
    length
        Positions of the probed prompts: longer windows were not seen.

    Raises
    ------
    UnsupportedModelError
        If layers differ, or have a window, in a way that neither modules nor config tell.
    """
    shapes: dict[Part, dict[int, Found]] = {}
    for index, part in enumerate(found):
        if part is None:
            continue
        keyed, pure = (index in layers for layers in cached)
        keyed = not part.crosses or (keyed and len(part.sources) == 1)
        mixer = "attention" if keyed else "convolution" if part.window else "recurrent"
        own = "" if part.crosses else Part().heads
        first, *more = part.sources
        scales = [named(scale, numbers(config)) for scale in part.scales]
        shape = Part(
            module=part.module,
            source="" if first == part.module else first,
            also=tuple(zip(more, scales[1:], strict=True)),
            norm=part.reader,
            out=part.out[len(part.module) + 1 :],
            heads=_heads_field(config, part.heads, index) if mixer == "attention" and part.crosses else own,
            scale=scales[0],
            mixer=mixer,
            cached=pure or not part.crosses,
        )
        shapes.setdefault(shape, {})[index] = part
    for shape in [shape for shape in shapes if shape.cached and replace(shape, cached=False) in shapes]:
        shapes[replace(shape, cached=False)].update(shapes.pop(shape))
    parts = [replace(shape, window=_window(config, members, length)) for shape, members in shapes.items()]
    return tuple(_told_apart(calls, part, set(members)) for part, members in zip(parts, shapes.values(), strict=True))


def _heads_field(config: Any, heads: int | None, layer: int) -> str:
    """Return the config field that says how many heads there are; empty where none agrees with the measurement."""
    names = [name for name in config.to_dict() if "head" in name and "dim" not in name and "size" not in name]
    for name in ("num_attention_heads", *names):
        if heads is not None and field_of(config, name, layer) == heads:
            return name
    return ""


def _window(config: Any, members: dict[int, Found], length: int) -> Window | None:
    """Say which config fields tell the windows that were measured."""
    crossing = {index: part.window for index, part in members.items() if part.crosses}
    told = {index: _seen(default_window(config, index), length) for index in crossing}
    if not any(crossing.values()) and any(told.values()):
        return Window("")
    if told == crossing:
        return None
    sizes = {size for size in crossing.values() if size is not None}
    fields = [name for name, value in numbers(config).items() if {value} == sizes]
    fields.sort(key=lambda name: not re.search("window|local|conv|kernel|chunk", name))
    lists = {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, list) and all(isinstance(kind, str | int) for kind in value)
    }
    for field in fields:
        if None not in crossing.values():
            return Window(field)
        for name, value in lists.items():
            if len(value) <= max(crossing):
                continue
            kinds = {str(value[index]) for index, size in crossing.items() if size}
            if len(kinds) == 1 and not kinds & {str(value[index]) for index, size in crossing.items() if not size}:
                return Window(field, name, kinds.pop())
    raise UnsupportedModelError(
        f"{config.model_type}: mixers see {sorted(sizes)} positions in a small copy, and no field of the config says so"
    )


def _seen(window: int | None, length: int) -> int | None:
    return None if window is None or window >= length else window


def _told_apart(calls: Sequence[Call], part: Part, members: set[int]) -> Part:
    """Name the classes of a part's module where its paths exist in layers that it does not describe."""
    paths = [path for path in (part.module, part.source, part.norm, *(path for path, _scale in part.also)) if path]
    has = {
        index
        for index, call in enumerate(calls)
        if set(paths) <= {path for path, _module in call.module.named_modules()}
    }
    if has == members:
        return part
    named = part.module or part.source
    for path in (named, ""):
        classes = {index: type(calls[index].module.get_submodule(path)).__name__ for index in has}
        inside = {classes[index] for index in members}
        if not inside & {classes[index] for index in has - members}:
            return replace(part, classes=tuple(sorted(inside)))
    raise UnsupportedModelError(
        f"layers {sorted(members)[:4]} and {sorted(has - members)[:4]} are built alike ({named}) and work differently; "
        "a record tells layers apart by their modules"
    )
