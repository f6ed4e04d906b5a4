"""Which axis of a tensor is the sample, which are sites, which are channels: found from the operators that use it.

A dimension of a tensor is a list of *atoms*. Views split and merge atoms, transpositions move them, and the operators
that contract an axis (a linear layer, a convolution) say that it is a channel. What nothing contracts is the sample
(dimension 0 of an input) or a site (pixel, token).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Atom", "Axis", "Dims", "Layout", "broadcast_dims", "flat", "reshape_dims", "set_kind", "unify"]

SAMPLE, SITE, CHANNEL = "sample", "site", "channel"
_serial = itertools.count()


class Atom:
    """One axis while its kind is still being found: it may be split by a view and be unified with another."""

    __slots__ = ("_kind", "_link", "_parts", "serial", "size")

    def __init__(self, size: int, kind: str | None = None) -> None:
        """An atom of ``size`` entries; ``kind`` None means not known yet."""
        self.size = size
        self._kind = kind
        self._parts: tuple[Atom, ...] = ()
        self._link: Atom | None = None
        self.serial = next(_serial)

    def root(self) -> Atom:
        """The atom that stands for this one after unification."""
        atom = self
        while atom._link is not None:
            atom = atom._link
        return atom

    def leaves(self) -> list[Atom]:
        """The unsplit atoms that this one consists of, outermost first."""
        atom = self.root()
        if not atom._parts:
            return [atom]
        return [leaf for part in atom._parts for leaf in part.leaves()]

    @property
    def kind(self) -> str | None:
        """sample, site, channel, or None while not known."""
        return self.root()._kind

    def split(self, outer: int) -> None:
        """Split a leaf into an outer atom of ``outer`` entries and the rest."""
        atom = self.root()
        atom._parts = (Atom(outer, atom._kind), Atom(atom.size // outer, atom._kind))

    def link(self, other: Atom) -> None:
        """Say that two leaves of one size are the same axis."""
        one, two = self.root(), other.root()
        if one is two:
            return
        two._link = one
        if one._kind is None:
            one._kind = two._kind


Dims = list[list[Atom]]  # the atoms of each dimension, outermost first; a dimension of size 1 has none


@dataclass(frozen=True)
class Axis:
    """A resolved axis: its identity, its size and its kind (sample, site or channel)."""

    serial: int
    size: int
    kind: str


Layout = tuple[tuple[Axis, ...], ...]  # the axes of each dimension


def flat(dims: Iterable[Sequence[Atom]]) -> list[Atom]:
    """All leaves of several dimensions in memory order."""
    return [leaf for dim in dims for atom in dim for leaf in atom.leaves()]


def set_kind(atoms: Iterable[Atom], kind: str) -> None:
    """Give a kind to the atoms that have none yet."""
    for atom in atoms:
        for leaf in atom.leaves():
            if leaf.root()._kind is None:
                leaf.root()._kind = kind


def unify(one: Sequence[Atom], two: Sequence[Atom]) -> bool:
    """Identify two lists of atoms of equal total size, splitting where one is finer; False where they do not fit."""
    left, right = flat([one]), flat([two])
    while left and right:
        a, b = left[0], right[0]
        if a.root() is b.root() or a.size == b.size:
            a.link(b)
            left, right = left[1:], right[1:]
        elif a.size > b.size and a.size % b.size == 0:
            a.split(b.size)
            left = a.leaves() + left[1:]
        elif b.size > a.size and b.size % a.size == 0:
            b.split(a.size)
            right = b.leaves() + right[1:]
        else:
            return False
    return not left and not right


def broadcast_dims(operands: Sequence[tuple[Dims, Sequence[int]]], shape: Sequence[int]) -> Dims:
    """Dimensions of a broadcast result; equal dimensions of the operands are identified."""
    out: Dims = []
    for position, size in enumerate(shape):
        chosen: list[Atom] | None = None
        for dims, operand_shape in operands:
            index = position - (len(shape) - len(operand_shape))
            if index < 0 or operand_shape[index] != size or size == 1:
                continue
            if chosen is None:
                chosen = dims[index]
            else:
                unify(chosen, dims[index])
        out.append([] if size == 1 else chosen if chosen is not None else [Atom(size)])
    return out


def reshape_dims(dims: Dims, shape: Sequence[int]) -> Dims | None:
    """Dimensions after a view to ``shape``; None where the view cuts across axes."""
    atoms = flat(dims)
    out: Dims = []
    for size in shape:
        dim: list[Atom] = []
        need = size
        while need > 1:
            if not atoms:
                return None
            head = atoms[0]
            if need % head.size == 0:
                dim.append(head)
                need //= head.size
                atoms = atoms[1:]
            elif head.size % need == 0:
                head.split(need)
                atoms = head.leaves() + atoms[1:]
            else:
                return None
        out.append(dim)
    return out


def resolve(dims: Dims, default: Callable[[int], str]) -> Layout:
    """Freeze dimensions into axes; ``default`` gives the kind of an atom, by dimension, that nothing decided."""
    return tuple(
        tuple(Axis(leaf.root().serial, leaf.size, leaf.kind or default(i)) for atom in dim for leaf in atom.leaves())
        for i, dim in enumerate(dims)
    )
