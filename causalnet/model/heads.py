"""How many heads a mixer has, counted from outside."""

import torch

from causalnet.model.layer_probe import Change, LayerProbe

__all__ = ["count_heads"]


def count_heads(probe: LayerProbe, mixer: str, out: str) -> int | None:
    """Count the blocks of an output projection's input that can be changed one at a time.

    A query or a key belongs to one head (or one group of heads): when a coordinate of what some module
    inside the mixer returns is changed, whole heads change, and nothing of the others.

    Parameters
    ----------
    probe
        The layer.
    mixer, out
        Paths of the mixer and of its output projection.

    Returns
    -------
    int or None
        None where heads cannot be told apart, as under a norm over all of them.
    """
    natural = probe.natural.inputs[out]
    width = natural.shape[-1]
    smallest = width
    generator = torch.Generator().manual_seed(2)
    for path, value in probe.natural.outputs.items():
        inside = path.startswith(f"{mixer}.") and path != out and not path.startswith(f"{out}.")
        if not inside or not value.is_floating_point() or value.dim() < 2:
            continue
        for spot in torch.randint(0, value.shape[-1], (12,), generator=generator).tolist():
            seen = probe.run(outputs={path: _poke(spot)})
            fed = seen.inputs.get(out)
            if fed is None or fed.shape != natural.shape:
                continue
            size = natural.abs().mean()
            changed = ((fed - natural).abs() > probe.tiny * size).reshape(-1, width).any(0)
            smallest = min(smallest, _block(changed, width))
    return width // smallest if smallest < width else None


def _poke(spot: int) -> Change:
    """Return a change of one coordinate at every position, whatever the layout after [prompt, ...]."""

    def change(value: torch.Tensor) -> torch.Tensor:
        flat = value.clone()
        rows = flat.reshape(flat.shape[0], -1, flat.shape[-1]) if flat.dim() > 2 else flat
        rows[..., spot] += 3.0 * rows.abs().mean() + 0.1
        return rows.reshape(value.shape)

    return change


def _block(changed: torch.Tensor, width: int) -> int:
    """Return the size of the aligned block that holds exactly the changed coordinates, else the whole width.

    A single coordinate tells nothing: a change of one value moves the same coordinate of what it is mixed into.
    """
    where = changed.nonzero()[:, 0]
    if len(where) < 2:
        return width
    low, high = int(where.min()), int(where.max()) + 1
    size = high - low
    return size if size == len(where) and width % size == 0 and low % size == 0 else width
