"""Other implementations of the same model, timed beside ours: transformers, or your own.

A rival is named MODULE:FUNCTION or FILE.py:FUNCTION. The function is called once, as
`FUNCTION(sam)`, with the `esam_jax.Sam` that is measured: `sam.config` and `sam.params` let it
build the same network with the same weights, `sam.model.compute.dtype` says in which type. It
returns a callable, or an object with any of these (B pictures, Q boxes each, px =
`sam.config.image_px`):

* `rival(pictures, points, labels)`: uint8 RGB [B, px, px, 3], float32 [B, Q, 2, 2] and int32
  [B, Q, 2], all NumPy, to masks in any form. Points are the corners of a box (x, y) in pixels,
  labels their kinds: 2 top left, 3 bottom right.
* `rival.encode(pictures)` -> anything, and `rival.decode(embedding, points, labels)` -> anything,
  which takes what `encode` returned for one picture. Where the rival has `put`, they get
  `rival.put(array)` for each array, which is timed: ours takes arrays of the host, too.

PyTorch gets as many threads as there are cores, or what OMP_NUM_THREADS says; and on a GPU TF32
where ours uses it. On a machine with other work try OMP_NUM_THREADS=1, too: its threads wait for
each other at the end of every operation, so that one without a core makes all of them slow.
"""

import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_jax.errors import ConfigError, EsamError, MissingError
from esam_jax.predict.sam import Sam

TORCH = "torch"


@dataclasses.dataclass(frozen=True)
class Rival:
    """What it can do; None for what it cannot. `masks` goes from pictures to masks."""

    name: str
    encode: Callable[..., Any] | None = None
    decode: Callable[..., Any] | None = None
    masks: Callable[..., Any] | None = None
    put: Callable[[Any], Any] = lambda array: array


def check(name: str) -> None:
    """ConfigError unless the name has one of the accepted forms; nothing is imported."""
    module, _, function = name.rpartition(":")
    if name != TORCH and not (module and function.isidentifier()):
        raise ConfigError(
            f"--against is {name!r}, but must be torch, MODULE:FUNCTION or FILE.py:FUNCTION"
        )


def load(name: str, sam: Sam) -> Rival:
    """The rival of that name, ready to be called; ConfigError or MissingError says what is wrong.

    Its own errors come back as ConfigErrors that name it.
    """
    check(name)
    make = _transformers if name == TORCH else _function(name)
    made = _guarded(name, make)(sam)
    give_torch_its_share(sam)
    parts = {part: getattr(made, part, None) for part in ("encode", "decode")}
    parts["masks"] = made if callable(made) else None
    found = {part: _guarded(name, call) for part, call in parts.items() if callable(call)}
    if not found:
        raise ConfigError(
            f"--against {name} returned a {type(made).__name__}, but must return a callable, or an "
            "object with encode or decode"
        )
    if "decode" in found and "encode" not in found:
        raise ConfigError(f"--against {name} has decode but no encode, whose result it takes")
    put = getattr(made, "put", None)
    return Rival(name, **found, **({"put": _guarded(name, put)} if callable(put) else {}))


def give_torch_its_share(sam: Sam) -> None:
    """Where PyTorch is loaded: a thread for each core, and TF32 where JAX uses it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores())
    if torch.cuda.is_available():
        plain = sam.model.compute.precision == "default"
        torch.set_float32_matmul_precision("high" if plain else "highest")
        torch.backends.cudnn.allow_tf32 = plain


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _transformers(sam: Sam) -> Any:
    from esam_jax.bench import transformers_sam  # torch is imported here alone

    return transformers_sam.make(sam)


def _function(name: str) -> Callable[..., Any]:
    place, _, function = name.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else _module(place)
    except EsamError:
        raise
    except Exception as error:  # whatever the user's own module raises
        about = f"{type(error).__name__}: {error}"
        missing = isinstance(error, ModuleNotFoundError)
        remedy = "; install it, or start in the folder that holds it" if missing else ""
        raise ConfigError(f"--against {name} cannot be imported: {about}{remedy}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"--against {name}: {place} has no function {function}")
    return found


def _module(place: str) -> ModuleType:
    # `python -m` would find a module of the working directory; an installed command does not.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(place)


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MissingError(f"--against: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"rival_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def _guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, whose own errors name the rival."""

    def guarded(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except EsamError:
            raise
        except Exception as error:
            about = f"{type(error).__name__}: {error}"
            raise ConfigError(f"--against {name} failed: {about}") from error

    return guarded
