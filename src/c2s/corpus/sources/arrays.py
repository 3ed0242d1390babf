"""One-dimensional arrays on disk, and how their chunks are unpacked.

How the bytes are read was measured: HDF5 hands out uncompressed chunks as fast as memory is copied, so
those go through h5py. Its gzip filter takes 2 to 3 times as long as `isal` on the same chunks, so gzip
chunks are taken raw and unpacked with `isal` where that is installed. Files are not memory-mapped: mapped
pages count as memory of the process, and a file that is cut off while mapped ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numba import njit

from c2s.common.errors import InputError

# A chunk up to this size is kept for the next read, which begins in it.
_KEPT_BYTES = 1 << 26


class DiskArray:
    """A one-dimensional array of h5py or zarr, read as it comes.

    Attributes
    ----------
    dtype
        As it is stored, which may be in the other byte order.
    """

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = np.dtype(array.dtype)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read values `start` to `stop`, the last not included, in the machine's byte order."""
        found = np.asarray(self.array[start:stop])
        return found.astype(found.dtype.newbyteorder("="), copy=False)


class ChunkedArray(DiskArray):
    """An array that is unpacked by whole chunks; the last is kept, because the next read begins in it."""

    def __init__(self, array: Any) -> None:
        super().__init__(array)
        self.chunk = int(array.chunks[0])
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0, self.dtype))

    def unpacked(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Yield the values of chunks `first` to `last`, one array for any number of them."""
        yield super().read(first * self.chunk, (last + 1) * self.chunk)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read values `start` to `stop`, unpacking no chunk that the last read ended in."""
        out = np.empty(stop - start, self.dtype.newbyteorder("="))
        if start == stop:
            return out
        first, last = start // self.chunk, (stop - 1) // self.chunk
        kept, values = self._kept
        if kept == first:
            _overlay(out, start, values, first * self.chunk)
            first += 1
        if first > last:
            return out
        position = first * self.chunk
        for values in self.unpacked(first, last):
            _overlay(out, start, values, position)
            position += len(values)
        in_last = position - last * self.chunk  # the array's last chunk may hold fewer
        if in_last * self.dtype.itemsize <= _KEPT_BYTES:
            self._kept = (last, values[-in_last:].copy())
        return out


def _overlay(out: np.ndarray, start: int, values: np.ndarray, position: int) -> None:
    """Copy into `out`, whose first place is `start`, what of `values`, at `position`, lies in it."""
    low, high = max(start, position), min(start + len(out), position + len(values))
    if low < high:
        out[low - start : high - start] = values[low - position : high - position]


class GzipArray(ChunkedArray):
    """An HDF5 array packed with gzip, with or without shuffling, unpacked by `isal`."""

    def __init__(self, array: Any, isal_zlib: Any) -> None:
        super().__init__(array)
        self._isal, self._shuffled = isal_zlib, bool(array.shuffle)

    def unpacked(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Yield the values of chunks `first` to `last`, one chunk at a time."""
        for i in range(first, last + 1):
            yield self._chunk(i)[: len(self) - i * self.chunk]

    def _chunk(self, i: int) -> np.ndarray:
        size = self.chunk * self.dtype.itemsize
        try:
            skipped, packed = self.array.id.read_direct_chunk((i * self.chunk,))
            raw = b"" if skipped else self._isal.decompress(packed, bufsize=size)
        except (OSError, RuntimeError, ValueError, self._isal.error):
            raw = b""
        # What is unusual or damaged is HDF5's to read or to refuse.
        if len(raw) != size:
            return DiskArray.read(self, i * self.chunk, (i + 1) * self.chunk)
        if not self._shuffled:
            return np.frombuffer(raw, self.dtype)
        out = np.empty(self.chunk, np.dtype(f"u{self.dtype.itemsize}"))
        _unshuffle(np.frombuffer(raw, np.uint8), out)
        return out.view(self.dtype)


class FileArray(DiskArray):
    """A plain file of numbers in the machine's byte order."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = path, dtype

    def __len__(self) -> int:
        return self.path.stat().st_size // self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read values `start` to `stop`, the last not included."""
        offset = start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, count=stop - start, offset=offset)


def open_array(path: str, array: Any) -> DiskArray:
    """Choose how an array of a sparse matrix is read.

    Raises
    ------
    InputError
        Chunks are missing.
    """
    if not isinstance(array, h5py.Dataset):
        # zarr reads a chunk that is not there as zeros, which would be genes and counts like others.
        if array.nchunks_initialized < array.nchunks:
            raise InputError(
                f"{path}: {array.nchunks - array.nchunks_initialized:,} of the {array.nchunks:,} chunks of"
                f" {array.path} are missing; copy or download it again"
            )
        return ChunkedArray(array)
    if not (array.dtype.isnative and array.dtype.kind in "iuf" and _gzip_only(array)):
        return DiskArray(array)
    try:
        from isal import isal_zlib
    except ImportError:
        return DiskArray(array)
    return GzipArray(array, isal_zlib)


def _gzip_only(array: Any) -> bool:
    """Whether all chunks of an HDF5 array are there and packed by gzip, with or without shuffling."""
    if array.compression != "gzip" or not len(array):
        return False
    properties = array.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    whole = array.id.get_num_chunks() == -(-len(array) // array.chunks[0])
    return whole and filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


@njit(cache=True)
def _unshuffle(raw: np.ndarray, out: np.ndarray) -> None:
    """Undo HDF5's shuffle: `raw` has the first bytes of all numbers, then the second, and so on."""
    n = len(out)
    for i in range(n):
        out[i] = raw[i]
    for byte in range(1, len(raw) // n):
        part = raw[byte * n : (byte + 1) * n]
        for i in range(n):
            out[i] |= out.dtype.type(part[i]) << out.dtype.type(8 * byte)
