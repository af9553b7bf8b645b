"""One part of a dataset (train, validation or test) as tensors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.binarization import (
    EVALUATION_DRAW,
    as_probability,
    check_probability,
    drawn_with,
    evaluation_noise,
    full_mask,
    noise_for,
)
from pyro_vae.data.rows import EVALUATION, Column, Index, InMemory, Piece, Rows, as_rows
from pyro_vae.data.streams import rows_of
from pyro_vae.data.tensors import LEVELS, as_real, as_tensor, check_finite, chunk_size, chunks
from pyro_vae.errors import InputError, ReadError

_OF_X = " of x"  # in the names of random numbers beside the stored tensors
FACTOR = "factor."  # begins the names of known factors of variation


class Split:
    """Tensors with a common leading data dimension, handed out as batches.

    ``x`` of dtype uint8 holds grey levels 0..255 and becomes float32 x/255 in a batch; ``torch.bool`` holds
    binary data and becomes float32 0./1.; so do pictures beside it, ``image`` and ``frames``. Floating-point ``x`` and
    every other tensor come out as they are.
    The stored tensors stay small: conversion happens per batch, on the device.

    Args:
        tensors: ``x`` of shape (N, ...) and any others of length N, e.g. ``y`` int64 (N,). Arrays of NumPy become what
            they do in a ``.npz`` file: floating point float32, integers but for uint8 pictures int64. Or a map-style
            dataset, a ``DataLoader``, an iterable of batches, which are read when they are wanted.
        mask: which part of x is observed, bool: of the shape of one x, for images also (H, W), or one per datum. A
            batch then holds, beside x, ``mask`` (B, ...) and ``y``, the observed part of x (0 elsewhere).
        integers: x are integers by nature (codes, tokens), stored as int64, and come out as they are.
        missing: NaN in x are entries that are not known, which the model has to leave out (:class:`models.TabularVAE`
            does); else they are refused.
        binarization: ``"dynamic"`` draws x ~ Bernoulli(x/255) (floats: Bernoulli(x)) anew for every training batch;
            for evaluation (:meth:`batches`, :meth:`fixed`) once, always the same.
        names: one a datum, such as those of files; they stay with the data and go into what is written of each.
        captions: one a datum, in words what it shows; they stay with the data too.
        name: what errors call this split.

    Raises:
        InputError: without an ``x``, for tensors of different lengths or without data, an ``x`` of another
            integer type, NaN or infinite numbers, dynamic binarization of numbers outside [0, 1], a mask of
            another type or shape, and another number of names or
            captions than of data.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor | np.ndarray] | Rows | Iterable[Any],
        *,
        mask: Tensor | np.ndarray | None = None,
        integers: bool = False,
        missing: bool = False,
        binarization: Literal["none", "dynamic"] = "none",
        names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        name: str = "data",
    ) -> None:
        found = tensors if isinstance(tensors, Rows) else rows_of(tensors, name=name)
        source = as_rows(tensors, name) if found is None else found
        _check(source, name, integers, missing)
        for what, texts in {"names": names, "captions": captions}.items():
            if texts is not None and len(texts) != len(source):
                raise InputError(f"{name}: {len(texts)} {what} for {len(source)} data; there must be one a datum")
        if binarization not in ("none", "dynamic"):
            raise InputError(
                f"{name}: a split's binarization is 'none' or 'dynamic', got {binarization!r} "
                "(threshold and static binarization are done once, by load_data)"
            )
        if binarization == "dynamic" and isinstance(source, InMemory):
            check_probability(source.tensors["x"], name)
        self.source = source
        self._device = torch.device("cpu")  # of data that are read
        if isinstance(mask, np.ndarray):
            mask = as_tensor(mask, f"{name}: mask")
        if mask is not None:
            mask = full_mask(mask, len(source), source.columns["x"].shape, name).to(self.device)
        self.mask = mask  # (*shape,) or (N, *shape)
        if mask is not None and mask.dim() > len(source.columns["x"].shape) and source.sizes is not None:
            raise InputError(
                f"{name}: a mask for each datum needs data that stay in their order, and an iterable of batches may "
                "give them in another one in training: give a map-style dataset, or one mask for all"
            )
        self.names = None if names is None else tuple(names)
        self.captions = None if captions is None else tuple(captions)
        self.binarization = binarization
        self.integers = integers
        self.missing = missing
        self.dtype: torch.dtype | None = None  # of the floating-point tensors of a batch; None: as they come
        self.variants: tuple[tuple[str, ...], ...] = ()  # names of tensors (N, M, ...), those together of one draw
        self.name = name
        self.numbered: tuple[str, ...] = ()  # entries that were texts, numbered as these data alone have them
        self._settled = False  # drawn as for evaluation, also at an index: of data that are not in memory

    def __len__(self) -> int:
        """Return the number of data."""
        return len(self.source)

    def __repr__(self) -> str:
        """Say name, size, dtype and binarization."""
        kind = self.source.columns["x"].dtype
        return f"Split({self.name!r}, {len(self)} x {self.shape}, {kind}, binarization={self.binarization!r})"

    @property
    def in_memory(self) -> bool:
        """Whether the data are tensors in memory, rather than read when they are wanted."""
        return isinstance(self.source, InMemory)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The stored tensors ``(N, ...)``.

        Raises:
            InputError: for data that are not in memory.
        """
        if not isinstance(self.source, InMemory):
            raise InputError(f"{self.name}: the data are not in memory; read some, split.batch(slice(0, 100))")
        return self.source.tensors

    @property
    def columns(self) -> dict[str, Column]:
        """Type and shape of one datum, by name, as they are stored."""
        return self.source.columns

    def column(self, name: str) -> Tensor:
        """All data of one name, ``(N, ...)``, as they are stored; of what is not in memory it is read."""
        return self.source.column(name)

    @property
    def factors(self) -> dict[str, Tensor]:
        """The known factors of variation by name: of the entry ``factor.size`` that is ``size``; none in most data."""
        found = (name for name in self.columns if name.startswith(FACTOR))
        return {name.removeprefix(FACTOR): self.column(name) for name in found}

    def with_workers(self, count: int) -> Split:
        """Return the split, read by so many processes where processes can help."""
        other = copy.copy(self)
        other.source = self.source.with_workers(count)
        return other

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one x, e.g. (1, 28, 28)."""
        return self.shapes["x"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one datum's values by name, as in a batch."""
        found = {name: each.shape[1 if self._has_variants(name) else 0 :] for name, each in self.columns.items()}
        return found if self.mask is None else found | dict.fromkeys(("y", "mask"), found["x"])

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors, as in a batch."""
        return tuple(self.columns if self.mask is None else self.columns | {"y": None, "mask": None})

    @property
    def device(self) -> torch.device:
        """Where the tensors of a batch are."""
        return self.source.device or self._device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Split:
        """Return a copy on the device, in the stored (small) types.

        Args:
            device: where to.
            dtype: of the floating-point tensors of its batches, for programs of that type; None: as they come.
        """
        other = copy.copy(self)
        other.source, other._device = self.source.to(device), torch.device(device)
        other.dtype = dtype or self.dtype
        other.mask = None if self.mask is None else self.mask.to(device)
        return other

    def subset(self, n: int) -> Split:
        """Return the first n data (all, if there are fewer).

        Raises:
            InputError: if n is not positive.
        """
        if n < 1:
            raise InputError(f"{self.name}: a subset needs at least 1 datum, got n = {n}")
        other = copy.copy(self)
        other.source = self.source.first(min(n, len(self)))
        other._keep_texts(range(min(n, len(self))))
        other.mask = self.mask[:n] if self._mask_per_datum else self.mask
        return other

    def replaced(self, tensors: Mapping[str, Tensor]) -> Split:
        """Return the split with other tensors ``(N, ...)`` in place of those of their names."""
        other = copy.copy(self)
        other.source = self.source.replaced(tensors)
        return other

    def with_variants(self, tensors: Mapping[str, Tensor]) -> Split:
        """Return a copy with tensors of M variants per datum, of which a batch has one, the same of all these tensors.

        Args:
            tensors: by name, integers (N, M, ...) with one M, else an error; they replace what has these names. In a
                batch int64 (B, ...), of each datum a random variant in training, the first for evaluation.
        """
        sizes = {tuple(tensor.shape[:2]) for tensor in tensors.values()}
        for key, tensor in tensors.items():
            fits = len(sizes) == 1 and tensor.dim() > 1 and len(tensor) == len(self) and tensor.shape[1] > 0
            if not fits or tensor.is_floating_point():
                raise InputError(
                    f"{self.name}: variants of '{key}' must be integers ({len(self)}, M, ...) with one M, got "
                    f"{tensor.dtype} {tuple(tensor.shape)}"
                )
        other = self._with(self.tensors | dict(tensors))
        kept = (tuple(name for name in names if name not in tensors) for names in self.variants)
        other.variants = (*(names for names in kept if names), tuple(tensors))
        return other

    def batch(self, index: Tensor | slice, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the data at an index, converted as the class describes.

        Args:
            index: int64 (B,) on the split's device, or a slice. A slice gives the data as evaluation sees them, the
                very ones of :meth:`batches`, unless there is a generator.
            generator: of the draws of binarization and variants, on the split's device; torch's own if not given.

        Returns:
            One tensor (B, ...) per key.
        """
        return self.finish(self.rows(index, generator))

    def largest(self) -> slice:
        """The datum that programs may take most memory for: of tokens the longest sequences, else the first.

        Of data that are not in memory the first ones alone are looked at.
        """
        place, most, start = 0, -1, 0
        for some in self.source.slices() if self.integers and self.source.sizes is None else ():
            lengths = (x := self.rows(some)["x"]).ne(0).reshape(len(x), -1).sum(1)  # (n,)
            if int(lengths.amax()) > most:
                place, most = start + int(lengths.argmax()), int(lengths.amax())
            start += len(lengths)
            if not self.in_memory:
                break
        return slice(place, place + 1)

    def rows(self, index: Tensor | slice, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return the first half of :meth:`batch`: the stored data at an index, and random numbers to binarize with."""
        if not self.variants:
            return self.completed(self.source.read(index), index, generator)
        rows, which = {}, {}
        for names in self.variants if not isinstance(index, slice) else ():
            count = self.tensors[names[0]].shape[1]
            drawn = torch.randint(count, index.shape, generator=generator, device=index.device)  # (B,)
            which |= dict.fromkeys(names, drawn)
        for key, tensor in self.tensors.items():
            if isinstance(index, slice):
                rows[key] = (tensor[index, 0] if self._has_variants(key) else tensor[index]).clone()  # may be altered
            elif key in which:
                rows[key] = tensor[index, which[key]]  # (B, ...)
            else:
                rows[key] = tensor.index_select(0, index)
        return self.completed(rows, index, generator)

    def completed(
        self, rows: Mapping[str, Tensor], index: Index, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Return stored data with what :meth:`finish` needs besides: the mask, and random numbers to binarize with.

        Args:
            rows: stored data, ``(B, ...)``.
            index: which data they are, a slice or int64 ``(B,)``.
            generator: of the random numbers, on the split's device. Without one a slice has those of evaluation, other
                indices torch's own.
        """
        if not self.in_memory:
            self._check_read(rows["x"], index)
            if self.device.type == "cuda":  # from pinned memory a copy need not be waited for
                rows = {key: value.pin_memory() for key, value in rows.items()}
            rows = {key: value.to(self.device, non_blocking=True) for key, value in rows.items()}
        rows = dict(rows)
        if self.mask is not None:
            index = index if isinstance(index, slice) else index.to(self.device)
            mask = self.mask[index] if self._mask_per_datum else self.mask.expand(rows["x"].shape)
            rows["mask"] = mask.clone(memory_format=torch.contiguous_format)  # (B, *shape)
        if self.binarization == "dynamic":
            if generator is None and (isinstance(index, slice) or self._settled):
                places = torch.arange(len(self))[index if isinstance(index, slice) else index.cpu()]
                noise = evaluation_noise(rows["x"], places)
            else:
                noise = noise_for(rows["x"], generator)
            rows |= {f"{key}{_OF_X}": value for key, value in noise.items()}
        return rows

    def _check_read(self, x: Tensor, index: Index) -> None:
        """What is checked once of data in memory: finite numbers, and probabilities where x is drawn."""
        places = range(len(self))[index] if isinstance(index, slice) else index
        try:
            check_finite(x, self.name, places, missing=self.missing)
            if self.binarization == "dynamic":
                check_probability(x, self.name)
        except InputError as error:  # may come in the middle of work, which is saved then
            raise ReadError(str(error)) from None

    def finish(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the other half of :meth:`batch`: plain arithmetic, which a recorded step takes into its graph."""
        batch = {key: tensor for key, tensor in rows.items() if not key.endswith(_OF_X)}
        batch |= {key: batch[key].long() for names in self.variants for key in names}
        x = batch["x"]  # (B, *shape)
        if self.binarization == "dynamic":
            batch["x"] = drawn_with(x, **_noise_in(rows)).to(torch.float32)
        elif not x.is_floating_point() and not self.integers:
            batch["x"] = as_probability(x)
        for key in LEVELS:
            if key != "x" and key in batch and batch[key].dtype in (torch.uint8, torch.bool):
                batch[key] = as_probability(batch[key])
        if self.mask is not None:
            batch["y"] = batch["x"] * batch["mask"]
        return batch if self.dtype is None else {key: as_real(value, self.dtype) for key, value in batch.items()}

    def batches(self, batch_size: int, part: range | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the whole split in order, or a part of it; the last batch may be smaller.

        The numbers that binarize a datum depend on its place alone: neither batch size nor device matters.

        Raises:
            InputError: if batch_size is not positive.
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}")
        part = range(len(self)) if part is None else part
        slices = [slice(start, min(start + batch_size, part.stop)) for start in part[::batch_size]]
        if self.in_memory:
            return map(self.batch, slices)
        return self._read_batches(slices)

    def _read_batches(self, slices: Sequence[slice]) -> Iterator[dict[str, Tensor]]:
        places = torch.arange(len(self))
        pieces = (Piece(EVALUATION, i, places[some]) for i, some in enumerate(slices))
        with closing(self.source.stream(pieces)) as stream:
            for some, rows in zip(slices, stream, strict=True):
                yield self.finish(self.completed(rows, some, None))

    def fixed(self, index: Tensor | None = None) -> Split:
        """Return the data as evaluation sees them, those of :meth:`batches`, with nothing left to draw.

        Binarization is drawn once, into bool, and variants are the first. In bounded memory; the split itself if it has
        nothing to draw.

        Args:
            index: int64 (B,) on the split's device, to keep those data only; all if None.
        """
        drawn = self.binarization == "dynamic"
        if index is None and not drawn and not self.variants:
            return self
        if not isinstance(self.source, InMemory):
            return self._settle(index)
        places = torch.arange(len(self), device=self.device) if index is None else index
        other = self._with({})
        for key, tensor in self.tensors.items():
            if self._has_variants(key):
                other.tensors[key] = tensor[places, 0].long()
            elif key == "x" and drawn:
                other.tensors[key] = self._binarized(places)
            else:
                other.tensors[key] = tensor if index is None else tensor[places]
        other.mask = self.mask[places] if self.mask is not None and self._mask_per_datum else self.mask
        other.binarization, other.variants = "none", ()
        if index is not None:
            other._keep_texts(index.tolist())
        return other

    def _settle(self, index: Tensor | None) -> Split:
        """Of data that are not in memory: all of them, as evaluation draws them; or some, in memory."""
        other = copy.copy(self)
        if index is None:
            other._settled = True
            return other
        places, other._settled = index.cpu(), True
        found = other.completed(self.source.read(places), places, None)
        if self.binarization == "dynamic":
            found["x"] = drawn_with(found["x"], **_noise_in(found))
        other.source = InMemory({key: found[key] for key in self.columns})
        other.mask = self.mask[index] if self.mask is not None and self._mask_per_datum else self.mask
        other.binarization = "none"
        other._keep_texts(places.tolist())
        return other

    def mean(self) -> Tensor:
        """Return the mean of x over the data, float32 of shape ``shape``; in [0, 1] for uint8 and bool.

        Integers by nature are averaged as they are. Under dynamic binarization this is the mean probability. Of entries
        that may be missing it is the mean over the known ones, 0 where there are none. Read in chunks: memory is
        bounded.
        """
        if isinstance(self.source, InMemory):
            x = self.source.tensors["x"]
            pieces = chunks(x[:, 0] if self._has_variants("x") else x)  # of variants the first
        else:
            pieces = self._xs()
        if self.missing:
            known = torch.zeros(self.shape, dtype=torch.int64, device=self.device)
            total = torch.zeros(self.shape, dtype=torch.float64, device=self.device)
            for chunk in pieces:
                known += chunk.isfinite().sum(0)
                total += chunk.double().nansum(0)
            return (total / known.clamp(min=1)).float()
        mean = torch.zeros(self.shape, dtype=torch.float32, device=self.device)
        seen = 0
        for chunk in pieces:
            seen += len(chunk)
            if chunk.is_floating_point():
                average = chunk.mean(0, dtype=torch.float32)
            else:
                average = as_probability(chunk).mean(0)
            mean += (average - mean) * (len(chunk) / seen)
        return mean

    def _xs(self) -> Iterator[Tensor]:
        return (self.source.read(some)["x"].to(self.device) for some in self.source.slices())

    def _binarized(self, places: Tensor) -> Tensor:
        """x at these places (B,) as :meth:`batches` has it, bool ``(B, *shape)``."""
        x = self.tensors["x"]
        result = torch.empty((len(places), *x.shape[1:]), dtype=torch.bool, device=self.device)
        size = chunk_size(x)
        for some, target in zip(places.split(size), result.split(size), strict=True):
            target.copy_(drawn_with(x[some], **evaluation_noise(x[some], some)))
        return result

    def _has_variants(self, key: str) -> bool:
        return any(key in names for names in self.variants)

    @property
    def _mask_per_datum(self) -> bool:
        return self.mask is not None and self.mask.dim() > len(self.shape)

    def _keep_texts(self, index: Sequence[int]) -> None:
        """Of names and captions, those at an index."""
        self.names = None if self.names is None else tuple(self.names[i] for i in index)
        self.captions = None if self.captions is None else tuple(self.captions[i] for i in index)

    def _with(self, tensors: dict[str, Tensor]) -> Split:
        other = copy.copy(self)
        other.source = InMemory(tensors)
        return other


def _noise_in(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The random numbers that binarize x, by name."""
    return {key.removesuffix(_OF_X): tensor for key, tensor in rows.items() if key.endswith(_OF_X)}


def _check(source: Rows, name: str, integers: bool, missing: bool) -> None:
    """Check what x are."""
    kind = source.columns["x"].dtype
    if integers:
        if kind != torch.int64:
            raise InputError(f"{name}: x that are integers by nature must be int64, got {kind}")
    elif kind not in (torch.uint8, torch.bool) and not kind.is_floating_point:
        raise InputError(
            f"{name}: x must be uint8 (grey levels 0..255), bool (binary) or floating point, got {kind}; "
            "codes are int64 with integers=True"
        )
    if isinstance(source, InMemory):
        check_finite(source.tensors["x"], name, missing=missing)


def split_digest(split: Split) -> str:
    """SHA-256 of a split's tensors and mask: names, types, shapes and bytes; equal only where all data are, in order.

    Under dynamic binarization also of how evaluation draws: equal digests mean equal data in evaluation.

    Args:
        split: where it is does not matter, nor its name.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256(split.binarization.encode())
    if split.binarization == "dynamic":
        found.update(EVALUATION_DRAW.encode())
    if split.variants:  # of which evaluation takes the first
        found.update(f"variants {split.variants}".encode())
    if split.mask is not None:
        InMemory({"": split.mask}).digest(found)  # no tensor has this name
    split.source.digest(found)
    return found.hexdigest()
