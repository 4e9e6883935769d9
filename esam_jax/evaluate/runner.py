"""`esam evaluate prompts`: a model measured on data sets, resumable, with all that is written.

evaluate.json   the settings, which a second call must share
pictures/       what was measured of each picture
objects.csv     a line for each object
pictures.csv    a line for each picture, the worst first
worst.png       the pictures with the lowest mean IoU, with prompts, truth and answers
result.json     the numbers and the protocol; written last
"""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from esam_jax import files, sharding
from esam_jax.config import MeshConfig
from esam_jax.data import records
from esam_jax.data.findings import Finding
from esam_jax.data.records import Source
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import answers, kept, numbers, prompts, published, sheets
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.protocol import Protocol, Takes
from esam_jax.evaluate.talks import Rules
from esam_jax.machine import out_of_memory
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.words import counted

RESULT_FILE, WORST_FILE = "result.json", "worst.png"
OBJECTS_FILE, PICTURES_FILE = "objects.csv", "pictures.csv"
PLOTS = "*.svg"


@out_of_memory.advice()
def evaluate(
    sam: Sam,
    data: Mapping[str, Source],
    protocol: Protocol,
    *,
    out: Path | None = None,
    model: str = "",
    read_by: Mapping[str, Any] = MappingProxyType({}),
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measures the model on each data set, by name, over all local devices.

    Result: `numbers` (rows of `numbers.table`), `data` (for each set its hash, images, masks,
    skipped pictures, objects by the names of `KINDS`, `reasons`), `masks`, `images`, `skipped`,
    `fill_box`, `model` and its `model_hash`, `published` numbers, `protocol` in words, `seconds`,
    and how many pictures were `resumed`. What is broken is left out and counted; a UserWarning says
    so. With `out` a killed evaluation resumes there, and files are written; it must have the same
    protocol, weights and data, and options `read_by` which data is read. `model` is the name of the
    model in the result. DataError when no mask that is large enough remains in a set;
    ConfigError where the model does not take what the protocol gives it.
    """
    begin = time.monotonic()
    rules = Rules(protocol, Takes.of(sam.config, sam.untrained))
    protocol.require(rules.takes)
    if not data:
        raise ConfigError("no data is given: name some")
    hashes = {name: records.summary(source) for name, source in data.items()}
    about = {"model": model, "model_hash": album.digest(sam)}
    if out is not None:
        settings: dict[str, Any] = {"task": "prompts", "protocol": dataclasses.asdict(protocol)}
        settings |= {"data": list(hashes.values()), "read_by": dict(read_by)}
        written = (RESULT_FILE, OBJECTS_FILE, PICTURES_FILE, WORST_FILE, PLOTS)
        kept.settle(out, {**settings, "model": about["model_hash"]}, written)
    chosen = {
        name: prompts.chosen(source, protocol.images, protocol.seeds[0])
        for name, source in data.items()
    }
    bound = on_local_devices(sam, max(map(len, chosen.values())))
    contents: dict[str, list[dict[str, Any]]] = {}
    resumed = 0
    for number, (name, source) in enumerate(data.items()):
        store = Kept(out, str(number))
        waiting = [place for place in chosen[name] if place not in store]
        resumed += len(chosen[name]) - len(waiting)
        for found in prompts.measure(bound, source, waiting, rules, progress=progress):
            store.put(found.place, numbers.content(found))
        contents[name] = list(store.of(chosen[name]))
    result = {"task": "prompts", **about, **_result(data, hashes, contents, rules)}
    broken = {each["name"]: each["skipped"] for each in result["data"]}
    result["published"] = published.prompts(
        sam.config, model, data, protocol, single=protocol.single(rules.takes), broken=broken
    )
    result |= {"seconds": round(time.monotonic() - begin, 1), "resumed": resumed}
    if out is not None:
        files.write(out / OBJECTS_FILE, numbers.as_csv(contents, protocol))
        files.write(out / PICTURES_FILE, numbers.pictures_as_csv(contents, protocol))
        files.write(out / WORST_FILE, sheets.worst(bound, data, contents, rules))
        files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def on_local_devices(sam: Sam, pictures: int) -> answers.Bound:
    """The weights as programs read them, on as many devices of this host as have work."""
    devices = jax.local_devices()[: max(1, pictures)]
    mesh = sharding.make_mesh(MeshConfig(data=len(devices)), devices)
    params = jax.device_put(sam.ready, sharding.replicated(mesh))
    return answers.Model(sam.model, mesh).of(params)


def _result(
    data: Mapping[str, Source],
    hashes: Mapping[str, str],
    contents: Mapping[str, Sequence[Mapping[str, Any]]],
    rules: Rules,
) -> dict[str, Any]:
    """What follows from the contents of the pictures."""
    protocol = rules.protocol
    per_data = [
        {"name": name, "hash": hashes[name], **_of_data(source, name, contents[name], protocol)}
        for name, source in data.items()
    ]
    objects = {name: _objects(each) for name, each in contents.items()}
    pictures = [prompts.pictures_in_words(source, protocol) for source in data.values()]
    return {
        "data": per_data,
        **{key: sum(each[key] for each in per_data) for key in ("images", "masks", "skipped")},
        "fill_box": numbers.mean(each["fill_box"] for each in per_data),
        "numbers": numbers.table(objects, protocol),
        "protocol": protocol.words(rules.takes, "; ".join(pictures)),
    }


def _objects(pictures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [each for picture in pictures for each in picture["objects"]]


def _of_data(
    source: Source, name: str, pictures: Sequence[Mapping[str, Any]], protocol: Protocol
) -> dict[str, Any]:
    """Counts of a data set, with a warning where something was left out."""
    findings = prompts.of_source(source)
    findings.add(Finding(*each) for picture in pictures for each in picture["findings"])
    broken = [picture["broken"] for picture in pictures if picture["broken"]]
    reasons = prompts.warn(findings, broken, "")
    objects = _objects(pictures)
    if not objects:
        first = "".join(f"; {each}" for each in reasons[:1])
        raise DataError(
            f"none of {counted(len(pictures), 'picture')} of {name} has a usable mask of "
            f"{protocol.min_area_px} pixels or more: name data with masks{first}"
        )
    return {
        "images": len(pictures) - len(broken),
        "masks": len(objects),
        "skipped": len(broken),
        **findings.counts(),
        **({"reasons": reasons} if reasons else {}),
        "fill_box": numbers.mean(each["fill_box"] for each in objects),
    }
