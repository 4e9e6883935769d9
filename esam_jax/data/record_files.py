"""Records of many ArrayRecord files, of which few are open: a process may have 1024 in all."""

import collections
import threading
from pathlib import Path
from typing import Any

_OPEN = 64  # files at once, in one process
_RANDOM = "readahead_buffer_size:0,max_parallelism:0"


class Readers:
    """Open files, the ones used last; may be called from many threads, and sent to processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[Path, tuple[threading.Lock, Any]]
        self._open = collections.OrderedDict()

    def __reduce__(self) -> tuple[type["Readers"], tuple[Any, ...]]:
        return Readers, ()

    def read(self, path: Path, place: int, records: int) -> bytes:
        """A record of a file of so many; RuntimeError where it cannot be read."""
        lock, reader = self._reader(path, records)
        with lock:  # readers have one position
            (data,) = reader.read([place])
        return data

    def _reader(self, path: Path, records: int) -> tuple[threading.Lock, Any]:
        # A library that models do without; pyright does not see its compiled module.
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
            reader = array_record_module.ArrayRecordReader(str(path), _RANDOM)
            # A file that is none opens, too, without records.
            if not reader.ok() or reader.num_records() != records:
                raise RuntimeError(f"it is no file of ArrayRecord with {records} records")
            self._open[path] = threading.Lock(), reader
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return self._open[path]
