"""All sections one after the other, each in its own process, and `card.json` after each of them.

What a killed call leaves is complete as far as it got: the next call with the same folder measures
the sections that are missing, failed or were stopped.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files, outputs
from esam_jax.card import driver, markdown
from esam_jax.card.sections import SECTIONS, Section
from esam_jax.card.setting import Setting
from esam_jax.errors import ConfigError, ExistsError

FILE, PAGE, FORMAT = "card.json", "card.md", "esam bench card 1"
_MOST_BYTES = 50_000_000  # of the file
# A section that began late, because others took longer, still has this much of its share.
_LEAST = 0.5
# A section is ended after so many times its share of the time, and some more seconds.
_LATE, _GRACE = 2.0, 180.0
_LAST_WORDS = 12  # lines of stderr that are kept of a section which came to no end

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds to a setting."""

    out: Path
    sections: tuple[str, ...]
    minutes: float
    overwrite: bool
    command: str


def run(setting: Setting, options: Options, say: Say) -> dict[str, Any]:
    """The record with all sections that were named, also in `card.json`; `card.md` shows it.

    ExistsError or ConfigError where the folder holds something else, or another setting.
    """
    record = begin(setting, options)
    waiting = [name for name in options.sections if _state(record, name) != "done"]
    if not waiting:
        say(f"all sections are in {options.out} already; --overwrite measures them again")
    end = time.monotonic() + 60 * options.minutes
    total = sum(SECTIONS[name].share for name in waiting)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(waiting):
        shares = sum(SECTIONS[each].share for each in waiting[number:])
        usual = 60 * options.minutes * SECTIONS[name].share / total
        left = (end - time.monotonic()) * SECTIONS[name].share / shares
        seconds = max(_LEAST * usual, left)
        say(f"{number + 1} of {len(waiting)}: {name}, for about {seconds:.0f} s")
        limit = _LATE * max(usual, seconds) + _GRACE
        found = measure(SECTIONS[name], name, setting, seconds, limit, say)
        _require_same_device(record, name, found, options.out)
        record["sections"][name] = found
        record["seconds"] = sum(each["seconds"] for each in record["sections"].values())
        record["holds"] = holds(record)
        files.write(options.out / FILE, json.dumps(record, indent=1) + "\n")
        files.write(options.out / PAGE, markdown.page(record))
        say(_outcome(name, found))
    return record


def begin(setting: Setting, options: Options) -> dict[str, Any]:
    """The record of the folder, or an empty one; nothing is written."""
    outputs.require_folder(options.out)
    fresh = {
        "format": FORMAT,
        "command": options.command,
        "setting": setting.as_json(),
        "seconds": 0.0,
        "holds": True,
        "sections": {},
    }
    file, page = options.out / FILE, options.out / PAGE
    if not file.exists():
        outputs.require_file(page, overwrite=False, remedy="name another folder with --out")
        return fresh
    try:
        record = files.read_json(file, max_bytes=_MOST_BYTES, error=ConfigError)
    except ConfigError as error:
        raise ConfigError(f"{error}: name another folder with --out, or remove it") from error
    if record.get("format") != FORMAT or not isinstance(record.get("sections"), dict):
        raise ExistsError(f"{file} is not of `esam bench card`: name another folder with --out")
    # As it comes back from a file: tuples are lists there.
    same = record.get("setting") == json.loads(json.dumps(fresh["setting"]))
    if options.overwrite:
        kept = record["sections"] if same else {}
        kept = {name: each for name, each in kept.items() if name not in options.sections}
        return {**fresh, "sections": kept}
    if not same:
        raise ConfigError(
            f"{options.out} holds figures of other settings: name another folder with --out, or "
            "add --overwrite to measure again"
        )
    return record


def holds(record: Mapping[str, Any]) -> bool:
    """Whether no section failed, and no check of one came out wrong."""
    return all(
        section["state"] != "failed"
        and all(row.get("holds") is not False for row in section["rows"])
        for section in record["sections"].values()
    )


def measure(
    section: Section,
    name: str,
    setting: Setting,
    seconds: float,
    limit: float,
    say: Say,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What a section's process reports; its rows count also where it comes to no end.

    It begins no row after so many `seconds`, and is ended after `limit`. `command` stands for that
    process in tests.
    """
    began = time.monotonic()
    argv = command or [sys.executable, "-m", "esam_jax.card.section_process", name, str(seconds)]
    found: dict[str, Any] = {"state": "failed", "error": None, "rows": []}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            argv,
            env=environment(section),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,  # ended with whatever it has started
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            _end(process)

        timer = threading.Timer(limit, end)
        timer.start()
        ended = False
        try:
            ended = _listen(process, setting, found, say)
        finally:
            timer.cancel()
            _end(process)
        if not ended:
            why = f"ended after {limit:.0f} s" if late.is_set() else f"code {process.returncode}"
            found["error"] = f"the process came to no end ({why}): {_tail(words)}"
    return {**found, "seconds": time.monotonic() - began}


def environment(section: Section) -> dict[str, str]:
    """Of a section's process: one card, what others leave of its memory, no stored programs."""
    found = {**os.environ, "ESAM_COMPILE_CACHE": "off"}
    found.pop("JAX_COMPILATION_CACHE_DIR", None)  # compile times are measured
    found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {section.flags}".strip()
    if driver.query() is not None:
        found["CUDA_VISIBLE_DEVICES"] = found.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        fraction = driver.memory_fraction()
        if fraction is not None:
            found[driver.MEMORY_FRACTION] = str(fraction)
    return found


def _listen(
    process: subprocess.Popen[bytes], setting: Setting, found: dict[str, Any], say: Say
) -> bool:
    """Takes in the rows as they come; whether the process reported how it ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin as stdin:
            stdin.write(json.dumps(setting.as_json()).encode())
    except BrokenPipeError:  # it has ended already: its last words say why
        pass
    ended = False
    with process.stdout as lines:
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # half a line of a process that was ended
                continue
            if "row" in message:
                found["rows"].append(message["row"])
                say(markdown.one_line(message["row"]))
            else:
                found.update(message["end"])
                ended = True
    process.wait()
    return ended


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of its group have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(words: Any) -> str:
    words.seek(0)
    lines = words.read().decode(errors="replace").splitlines()[-_LAST_WORDS:]
    return " | ".join(line.strip() for line in lines if line.strip())[-2000:]


def _state(record: Mapping[str, Any], name: str) -> str | None:
    return record["sections"].get(name, {}).get("state")


def _require_same_device(
    record: Mapping[str, Any], name: str, found: Mapping[str, Any], out: Path
) -> None:
    kept = {each: x["device"] for each, x in record["sections"].items() if x.get("device")}
    kept.pop(name, None)
    new = found.get("device")
    if new is not None and any(device != new for device in kept.values()):
        old = next(device for device in kept.values() if device != new)
        raise ConfigError(
            f"{out} holds figures of {old}, but this is {new}: name another folder with --out, or "
            "add --overwrite to measure again"
        )


def _outcome(name: str, found: Mapping[str, Any]) -> str:
    wrong = sum(row.get("holds") is False for row in found["rows"])
    text = f"{name}: {found['state']} in {found['seconds']:.0f} s, {len(found['rows'])} rows"
    if wrong:
        text += f", {wrong} of which do not hold"
    return text if found["error"] is None else f"{text}: {found['error']}"
