"""One dataset on disk: a Zarr v3 store of flat, uncompressed arrays, written in chunks that are there or not.

The bytes of an uncompressed Zarr chunk are the bytes of the array, so chunks are written as plain files, which costs
a tenth of the way through the Zarr library: data generation at 0.1 ms a sample would notice. Everything else
(creating, reading) is Zarr's own.

A chunk is committed by its entry in the array ``checksum``: the CRC-32 of each of its arrays, except times, written
to a temporary name and renamed when all of the chunk's data are written. Nothing is flushed to the disk by force:
whoever continues a store compares the checksums, so that what a power cut took is found and written again.
"""

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcycle import _check
from vcycle._files import locked, writing
from vcycle.data.schema import FORMAT, TIME, ArraySpec, Schema
from vcycle.errors import DataError

CHECKSUM = "checksum"
PARTIAL = ".partial"
DAMAGED = "Restore it from a copy, or remove it and make it again."


class Store:
    """A store whose layout was read or just made; use :meth:`create` or :meth:`open`.

    Parameters
    ----------
    path
        The folder.
    schema
        What the data are about.
    specs
        The arrays along the sample axis.
    num_samples, chunk_size
        Number of rows, and rows per chunk.
    """

    def __init__(
        self, path: Path, schema: Schema, *, specs: Sequence[ArraySpec], num_samples: int, chunk_size: int
    ) -> None:
        self.path, self.schema, self.specs = path, schema, tuple(specs)
        self.destination = path  # what messages name, also while the store has a temporary name
        self.num_samples, self.chunk_size = num_samples, chunk_size
        self.checked = tuple(spec for spec in self.specs if not spec.varies)

    # ------------------------------------------------------------------------------------------------- making, opening

    @classmethod
    def create(
        cls, path: Path, schema: Schema, *, specs: Sequence[ArraySpec], num_samples: int, chunk_size: int
    ) -> "Store":
        """Make a store without chunks; it appears whole or not at all. Whoever calls holds the lock on ``path``.

        Raises
        ------
        DataError
            If there is something at ``path``, or it cannot be written.
        """
        store = cls(path, schema, specs=specs, num_samples=num_samples, chunk_size=min(chunk_size, num_samples))
        with store._appearing():
            pass
        return store

    @classmethod
    @contextlib.contextmanager
    def growing(
        cls, path: Path, schema: Schema, *, specs: Sequence[ArraySpec], num_samples: int, chunk_size: int
    ) -> Iterator["Store"]:
        """Give a store without chunks under a temporary name; it moves to ``path`` when the block ends well.

        Raises
        ------
        DataError
            If there is something at ``path``, it cannot be written, or another process is writing it.
        """
        store = cls(path, schema, specs=specs, num_samples=num_samples, chunk_size=min(chunk_size, num_samples))
        with locked(path), store._appearing():
            yield store

    @contextlib.contextmanager
    def _appearing(self) -> Iterator[None]:
        """Keep the store, made anew, under a temporary name until the block ends well."""
        path = self.destination
        partial = path.with_name(f".{path.name}{PARTIAL}")
        with writing(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise DataError(f"{path} exists and is not empty. Give another path, or remove it.")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.rmtree(partial, ignore_errors=True)  # what a killed process left: we have the lock
                self._make(partial)
                self.path = partial
                yield
                partial.replace(path)
            finally:
                self.path = path
                shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Read the layout of a store, complete or not.

        Raises
        ------
        DataError
            If there is none, or its description cannot be read.
        """
        content = _read_description(path)
        attributes = content["attributes"]
        if attributes["format"] != FORMAT:
            found = attributes["format"]
            raise DataError(
                f"{path} has format {found}, not {FORMAT}. Read it with the version of vcycle that wrote it."
            )
        try:
            schema, names = Schema.from_dict(attributes), list(attributes["arrays"])
            arrays = content["consolidated_metadata"]["metadata"]
            specs = [_spec(name, arrays[name]) for name in names]
            schema.check_arrays(specs)
            num_samples, chunk_size = _rows([arrays[name] for name in names])
        except (LookupError, TypeError, ValueError) as error:
            reason = f"zarr.json does not describe a dataset ({' '.join(str(error).split()).rstrip('.')})"
            raise DataError(f"{path} is damaged: {reason}. {DAMAGED}") from error
        for name in (*names, CHECKSUM, *schema.coordinates):
            _require_same_description(path, name, arrays.get(name))
        return cls(path, schema, specs=specs, num_samples=num_samples, chunk_size=chunk_size)

    def _make(self, folder: Path) -> None:
        import zarr

        attributes = self.schema.to_dict() | {"arrays": [spec.name for spec in self.specs]}
        group = zarr.create_group(str(folder), zarr_format=3, attributes=attributes)
        for name, values in self.schema.coordinates.items():
            unit = "unit of time" if name == TIME else "unit of length"
            coordinate = ArraySpec(name, unit=unit, about="coordinate")
            _create(group, coordinate, shape=values.shape, chunk=values.shape, dimensions=(name,))[:] = values
        for spec in self.specs:
            shape, chunk = (self.num_samples, *spec.shape), (self.chunk_size, *spec.shape)
            _create(group, spec, shape=shape, chunk=chunk, dimensions=("sample", *spec.dimensions))
        names = [spec.name for spec in self.checked]
        about = f"CRC-32 of the bytes of {', '.join(names)}; an entry is written when its chunk is complete"
        marker, shape = ArraySpec(CHECKSUM, dtype="uint32", about=about), (self.num_chunks, len(names))
        _create(group, marker, shape=shape, chunk=(1, len(names)), dimensions=("chunk", "checked_array"))
        _consolidate(folder)

    # ---------------------------------------------------------------------------------------------------------- chunks

    @property
    def num_chunks(self) -> int:
        """Number of chunks, the last of which may be shorter."""
        return -(-self.num_samples // self.chunk_size)

    def rows(self, chunk: int) -> slice:
        """Return the rows of a chunk."""
        return slice(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.num_samples))

    def write(self, chunk: int, values: Mapping[str, np.ndarray]) -> None:
        """Write all arrays of a chunk, then commit it.

        Parameters
        ----------
        chunk
            Its number.
        values
            Per array ``(rows, *shape)``.

        Raises
        ------
        DataError
            If there is no space left, or the store cannot be written; the chunk is not committed then.
        """
        with writing(self.destination):
            try:
                self._write(chunk, values)
            except OSError:
                with contextlib.suppress(OSError):
                    self._remove(chunk)  # it would only take space
                raise

    def _write(self, chunk: int, values: Mapping[str, np.ndarray]) -> None:
        sums = [self._write_array(spec, chunk, values[spec.name]) for spec in self.specs]
        kept = [value for spec, value in zip(self.specs, sums, strict=True) if not spec.varies]
        marker = self._marker(chunk)
        partial = marker.with_name(f"{marker.name}.{os.getpid()}{PARTIAL}")
        partial.write_bytes(np.array(kept, "<u4").tobytes())
        partial.replace(marker)

    def _write_array(self, spec: ArraySpec, chunk: int, values: np.ndarray) -> int:
        block = np.ascontiguousarray(values, dtype=np.dtype(spec.dtype).newbyteorder("<"))
        if len(block) < self.chunk_size:  # Zarr stores whole chunks: the last is filled up
            padding = np.full((self.chunk_size - len(block), *spec.shape), _fill_value(spec), block.dtype)
            block = np.concatenate([block, padding])
        file = self.file(spec, chunk)
        # a worker that is taken for dead may still be writing the same chunk: it is there whole or not at all
        partial = file.with_name(f"{file.name}.{os.getpid()}{PARTIAL}")
        try:
            partial.write_bytes(block.data)
            partial.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        return zlib.crc32(block.data)

    def file(self, spec: ArraySpec, chunk: int) -> Path:
        """Return the file of one array in one chunk."""
        return self.path / spec.name / ".".join(["c", str(chunk), *("0" for _ in spec.shape)])

    def _marker(self, chunk: int) -> Path:
        return self.path / CHECKSUM / f"c.{chunk}.0"

    def is_committed(self, chunk: int) -> bool:
        """Whether a chunk was written to its end."""
        return self._marker(chunk).is_file()

    def missing(self, chunk: int) -> str | None:
        """Return the first array of which a chunk's file is missing or has another size, from the file system alone."""
        for spec in self.specs:
            try:
                size = self.file(spec, chunk).stat().st_size
            except FileNotFoundError:
                return spec.name
            if size != spec.nbytes * self.chunk_size:
                return spec.name
        return None

    def altered(self, chunk: int) -> str | None:
        """Return the first array whose bytes in a committed chunk are not those that were written."""
        missing = self.missing(chunk)
        if missing:
            return missing
        expected = np.frombuffer(self._marker(chunk).read_bytes(), "<u4")
        if len(expected) != len(self.checked):
            return CHECKSUM
        for spec, value in zip(self.checked, expected, strict=True):
            if zlib.crc32(self.file(spec, chunk).read_bytes()) != value:
                return spec.name
        return None

    def unfinished(self) -> list[int]:
        """Return the chunks that are not committed, or whose bytes are not those that were committed."""
        return [k for k in range(self.num_chunks) if not self.is_committed(k) or self.altered(k) is not None]

    def discard(self, chunks: Sequence[int]) -> None:
        """Remove what there is of some chunks, and files that a killed process left half-written.

        Raises
        ------
        DataError
            If the store cannot be written.
        """
        with writing(self.path):
            for chunk in chunks:
                self._remove(chunk)
            for left in self.path.rglob(f"*{PARTIAL}"):
                left.unlink(missing_ok=True)

    def _remove(self, chunk: int) -> None:
        self._marker(chunk).unlink(missing_ok=True)  # first, so that a kill in between leaves no false promise
        for spec in self.specs:
            self.file(spec, chunk).unlink(missing_ok=True)

    def require_complete(self) -> None:
        """Look at all files, without reading them.

        Raises
        ------
        DataError
            If a chunk is not committed, or one of its files is missing or has the wrong size.
        """
        committed = [chunk for chunk in range(self.num_chunks) if self.is_committed(chunk)]
        if len(committed) < self.num_chunks:
            done = f"{len(committed)} of {self.num_chunks} chunks"
            raise DataError(f"{self.path} is incomplete: {done}. Give the command that made it again; it resumes.")
        for chunk in committed:
            name = self.missing(chunk)
            if name:
                raise DataError(
                    f"{self.path} is damaged: chunk {chunk} of the array {name} is missing or cut off. {DAMAGED}"
                )

    def array(self, name: str) -> Any:
        """Return one array as Zarr gives it, lazily read."""
        import zarr

        return zarr.open_array(str(self.path / name), mode="r")


def _read_description(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataError(f"{path} does not exist. Make it with `vcycle generate`, or correct the path.")
    file = path / "zarr.json"
    if not file.is_file():
        raise DataError(f"{path} is not a dataset: it has no zarr.json. Give the folder that `vcycle generate` made.")
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: zarr.json cannot be read ({error}). {DAMAGED}") from error
    attributes = content.get("attributes") if isinstance(content, dict) else None
    if not isinstance(attributes, dict) or "format" not in attributes or "arrays" not in attributes:
        raise DataError(
            f"{path} is a Zarr store, but not one of vcycle's. Build a dataset from it with Dataset.from_arrays."
        )
    return content


def _create(
    group: Any, spec: ArraySpec, *, shape: tuple[int, ...], chunk: tuple[int, ...], dimensions: tuple[str, ...]
) -> Any:
    return group.create_array(
        spec.name,
        shape=shape,
        chunks=chunk,
        dtype=spec.dtype,
        compressors=None,
        filters=None,
        fill_value=_fill_value(spec),
        chunk_key_encoding={"name": "default", "separator": "."},  # one folder per array, not one per chunk
        dimension_names=dimensions,
        attributes={"units": spec.unit, "description": spec.about},
    )


def _spec(name: str, content: Mapping[str, Any]) -> ArraySpec:
    attributes, dimensions = content["attributes"], tuple(content["dimension_names"][1:])
    shape = tuple(content["shape"][1:])
    return ArraySpec(name, shape, content["data_type"], dimensions, attributes["units"], attributes["description"])


def _rows(arrays: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the number of rows and that of rows per chunk, which all arrays share."""
    pairs = {(content["shape"][0], content["chunk_grid"]["configuration"]["chunk_shape"][0]) for content in arrays}
    if len(pairs) != 1:
        raise ValueError(f"the arrays must have equal rows and rows per chunk. Got {sorted(pairs)}")
    num_samples, chunk_size = pairs.pop()
    return _check.integer("shape", num_samples, 1), _check.integer("chunk_shape", chunk_size, 1)


def _require_same_description(path: Path, name: str, expected: Any) -> None:
    """Raise unless an array's own description, which Zarr reads it by, is that of the store."""
    file = path / name / "zarr.json"
    if not file.is_file():
        raise DataError(f"{path} is damaged: the array {name} is missing. {DAMAGED}")
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {name}/zarr.json cannot be read ({error}). {DAMAGED}") from error
    if found != expected:
        raise DataError(f"{path} is damaged: {name}/zarr.json is not the one that zarr.json lists. {DAMAGED}")


def _fill_value(spec: ArraySpec) -> float | int:
    return np.nan if np.dtype(spec.dtype).kind == "f" else 0


def _consolidate(folder: Path) -> None:
    """Copy the arrays' descriptions into the group's, as Zarr and xarray look for them; Zarr's own function warns."""
    group = folder / "zarr.json"
    content = json.loads(group.read_bytes())
    arrays = {file.parent.name: json.loads(file.read_bytes()) for file in sorted(folder.glob("*/zarr.json"))}
    content["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group.write_text(json.dumps(content, indent=2), encoding="utf-8")
