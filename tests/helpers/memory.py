"""How much memory something takes at its peak, in this process."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fails where the process has grown by more bytes meanwhile, be it for a moment.

    On Linux; elsewhere nothing is measured.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now (proc(5))
    except OSError:
        yield
        return
    before = _peak_bytes()
    yield
    grown = _peak_bytes() - before
    assert grown <= limit, f"{grown} bytes more at the peak, but at most {limit} may be"


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
