"""A read-only mapping that can be hashed and pickled, which ``MappingProxyType`` cannot."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

__all__ = ["FrozenMap"]

Key = TypeVar("Key")
Item = TypeVar("Item")


class FrozenMap(Mapping[Key, Item], Generic[Key, Item]):
    """A read-only mapping; equal to a dict of the same items, whatever their order.

    Examples
    --------
    >>> spans = FrozenMap({"subject": "Big Ben"})
    >>> spans["subject"], spans == {"subject": "Big Ben"}
    ('Big Ben', True)
    >>> hash(FrozenMap({"a": 1, "b": 2})) == hash(FrozenMap({"b": 2, "a": 1}))
    True
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Key, Item] | None = None) -> None:
        self._items: dict[Key, Item] = dict(items or {})

    def __getitem__(self, key: Key) -> Item:
        return self._items[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)
