"""What the package calls its arrays, its trees of them, and the records that are such trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, dataclass_transform

import jax
import numpy as np

# What takes an array takes NumPy's too, as all of JAX does. Their stubs have nothing in common, so statically it is JAX's.
if TYPE_CHECKING:
    Array: TypeAlias = jax.Array
else:
    Array = jax.Array | np.ndarray

# What a record is made of: data, or the shapes of data. No static type follows it through `jax.tree.map`.
if TYPE_CHECKING:
    Leaf: TypeAlias = Any
else:
    Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct

Params: TypeAlias = dict[str, Any]  # nested dicts of arrays, or of anything that stands for an array, by name
Shardings: TypeAlias = Any  # a tree with a jax.sharding.Sharding in the place of each array, or one for all of them

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass that JAX maps over, with its fields as children.

    JAX rebuilds such a record from whatever a map returned: tracers, shapes, shardings, axes. That goes past `__init__`,
    so that only a record which the program itself makes has to be of the annotated shapes and dtypes.
    """
    record = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(record))  # type: ignore[arg-type]  # made one line above

    def flatten(instance: T) -> tuple[tuple[Any, ...], None]:
        return tuple(getattr(instance, name) for name in names), None

    def flatten_with_keys(instance: T) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, Any], ...], None]:
        return tuple((jax.tree_util.GetAttrKey(name), getattr(instance, name)) for name in names), None

    def unflatten(_: None, children: Iterable[Any]) -> T:
        return tree_of(record, **dict(zip(names, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(record, flatten_with_keys, unflatten, flatten)
    return record


def tree_of(cls: type[T], **leaves: Any) -> T:
    """Makes a tree of the form of a record whose leaves are no data, e.g. the axes that `jax.vmap` asks for."""
    instance = object.__new__(cls)
    for name, leaf in leaves.items():
        object.__setattr__(instance, name, leaf)
    return instance


def joined(one: Params, other: Params) -> Params:
    """Both trees as one.

    Raises:
      ValueError: a leaf is in both of them.
    """
    tree = dict(one)
    for name, part in other.items():
        if name not in tree:
            tree[name] = part
        elif isinstance(part, dict) and isinstance(tree[name], dict):
            tree[name] = joined(tree[name], part)
        else:
            raise ValueError(f"{name}: expected it in one of the trees; it is in both.")
    return tree
