"""Keeps Orbax from asking TensorStore for what is never given back.

TensorStore counts a reference too many for each value that it turns from JSON into Python: what
`to_json` and `experimental_collect_matching_metrics` return stays in memory until the process ends
(every version from 0.1.69 to 0.1.86). Orbax asks for the first once for each array of a save, and
for the second twice a save and twice a restore: 0.2 MB for each save of 500 arrays.
"""

from collections.abc import Mapping
from typing import Any

import tensorstore as ts

try:
    from orbax.checkpoint._src.serialization import tensorstore_utils
except ImportError:  # it is a private module, which may be gone from one release to the next
    tensorstore_utils = None


def stop() -> bool:
    """Answers both questions without TensorStore, in this process from now on; True if it does.

    A folder's full address, which Orbax puts into what it opens, is the one it asks about where
    the folder is local; elsewhere TensorStore is asked. The bytes that went to the disk are for
    a line in Orbax's log, which is left out. Where this Orbax or TensorStore works otherwise,
    nothing is changed.
    """
    local = {"driver": "file", "path": "/a/folder/"}
    asked = getattr(tensorstore_utils, "ts", None)
    if asked is ts and ts.KvStore.Spec(local).to_json() == local:
        asked = tensorstore_utils.ts = _Quiet()  # pyright: ignore
    return isinstance(asked, _Quiet)


class _Quiet:
    """The module `tensorstore`, but for two of its answers."""

    def __init__(self) -> None:
        self.KvStore = _KvStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(ts, name)

    def experimental_collect_matching_metrics(self, *_: Any, **__: Any) -> list[Any]:
        return []


class _Address(dict[str, str]):
    """Of a local folder: all that its Spec would hold, and taken by TensorStore in its place."""

    def to_json(self) -> dict[str, str]:
        return dict(self)


def _spec(described: Any) -> Any:
    local = isinstance(described, Mapping) and set(described) == {"driver", "path"}
    if local and described["driver"] == "file":
        return _Address(described)
    return ts.KvStore.Spec(described)


class _KvStore:
    """The class `tensorstore.KvStore`, but for its Spec."""

    Spec = staticmethod(_spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(ts.KvStore, name)
