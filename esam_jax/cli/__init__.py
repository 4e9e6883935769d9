"""The `esam` command: runs a sub-command and turns every error into an exit code.

0 when done; 2 for what the user can fix, with one line on stderr; 1 for a defect of this package.
Training has more of them: see processes/join.py.
"""

import contextlib
import difflib
import importlib
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import esam_jax
from esam_jax import files
from esam_jax.errors import ConfigError, EsamError
from esam_jax.machine import compile_cache

_OF_SOURCE = re.compile(r"--(data|evaluate)\.source\.(path|ids|index|labels)")
_EXIT_PIPE = 128 + signal.SIGPIPE  # what a shell reports for `cat FILE | head -1`

COMMANDS = {
    "train": "train models from a config; resumes automatically",
    "features": "store what a teacher makes of each picture, for distillation",
    "plan": "what a run needs on a machine that need not exist yet: memory, time, money",
    "segment": "masks of a picture for points, boxes and masks, or for a text",
    "everything": "every mask of a picture, a folder or a tar, as data that can be trained on",
    "edges": "edge maps of a picture, a folder or a tar, from the masks of everything",
    "salient": "salient objects of pictures, without a person's prompts",
    "proposals": "masks of a picture, a folder or a tar that may be objects, ranked",
    "engine": "annotations by a model and a person in turn, and what rounds of it gain",
    "report": "an HTML page about a run: curves, where its time went, faults",
    "data": "index a data set before it is trained on",
    "evaluate": "measure a model on data with masks",
    "bench": "speed of a model on this machine, compared with PyTorch or a program of yours",
    "convert": "convert between PyTorch's files and ours, exactly, with the measured error",
    "models": "the names of models, their sizes, and which have weights to download",
    "inspect": "what kind of model a weight file holds",
    "study": "ways to pretrain, compared with the same arithmetic: a table, curves, a page",
    "quickstart": "SAMI pretraining and fine-tuning in minutes, and whether SAMI wins",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `esam ARGV...` and returns its exit code; with --debug errors keep their traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _code_of(arguments)
        except KeyboardInterrupt:
            return _complain("interrupted", 130)
        except EsamError as error:
            if debug:
                raise
            return _complain(str(error), error.exit_code)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _reader_has_left():
                return _EXIT_PIPE
            if debug:
                raise
            if (refused := files.refusal(error) or _no_device(error)) is not None:
                return _complain(str(refused), refused.exit_code)
            about = f"{type(error).__name__}: {error}"
            return _complain(f"a defect of esam_jax ({about}); --debug shows where", 1)


def _code_of(arguments: list[str]) -> int:
    try:
        code = _dispatch(arguments)
    except SystemExit as leave:  # --help, and a run that was terminated
        code = leave.code if isinstance(leave.code, int) else 0
    sys.stdout.flush()  # a closed pipe shows here, and not when Python ends
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        raise ConfigError(f"no command is given: write esam {'|'.join(COMMANDS)}, or esam --help")
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(esam_jax.__version__)
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise ConfigError(f"esam has no command {name!r}: {hint}")
    _require_local(name, rest)
    compile_cache.check()
    # Imported here, so that `esam --help` does not wait for JAX.
    return importlib.import_module(f"esam_jax.cli.{name}").main(rest)


def _require_local(command: str, arguments: list[str]) -> None:
    """ConfigError where any value is a bucket or a URL that is not the place of data.

    Those are the keys of sources, which have rules of their own, and what `esam data` is about.
    """
    for place, (before, argument) in enumerate(zip(["", *arguments], arguments, strict=False)):
        option, _, value = argument.partition("=")
        for name, held in ((before, argument), (option, value)):
            if name == "--workdir":
                files.require_local(held, name, rule=files.LOCAL_RUN)
            named = name == "--index" or (place == 1 and name == before and before[:1] != "-")
            of_data = command == "data" and named and files.is_store(held)
            if not (of_data or _OF_SOURCE.fullmatch(name)):
                files.require_local(held)


def _help() -> str:
    lines = ["usage: esam COMMAND ...   (esam COMMAND --help says more)", ""]
    lines += [f"  {name:<12}{about}" for name, about in COMMANDS.items()]
    return "\n".join([*lines, "", "  --debug     show where an error came from", "  --version"])


def _complain(message: str, code: int) -> int:
    _say(" ".join(message.split()))
    return code


def _show_warning(message: Any, *details: Any) -> None:
    _say(f"warning: {' '.join(str(message).split())}")


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads stderr any more: work continues
        print("esam:", text, file=sys.stderr)


def _no_device(error: Exception) -> EsamError | None:
    """What the user can fix if the error came because JAX has no device, as JAX_PLATFORMS asks."""
    if "jax" not in sys.modules or not isinstance(error, RuntimeError | AssertionError):
        return None
    from esam_jax.machine import accelerators

    try:
        accelerators.require_some()
    except EsamError as absent:
        return absent
    return None


def _reader_has_left() -> bool:
    """Whether stdout is a closed pipe, as in `esam ... | head -1`; drops what is left for it."""
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # it is no file
        return False
    poll = select.poll()
    poll.register(stdout, select.POLLOUT)
    left = any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return left
