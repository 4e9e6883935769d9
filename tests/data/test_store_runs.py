"""Training from an object store: the batches of a local folder, whoever reads them, and faults."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import fake_store, made_sets
from helpers.fake_store import WORKERS_SCHEME, FakeStore, address

from esam_jax import configs, files, places, sharding
from esam_jax.config import CropConfig, DataConfig, ImageFolderConfig, MeshConfig
from esam_jax.data import loader, sources
from esam_jax.errors import DiskError, TrainingError
from esam_jax.train import loop

store = fake_store.store
STEPS = 3


@pytest.fixture
def folder(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "_PAUSES", (0,))
    return made_sets.image_folder(store / "bucket" / "data", 24)


def losses(path: str, workers: int, workdir: Path) -> list[tuple[float, float]]:
    run = configs.load("quickstart_sami")
    source = ImageFolderConfig(path=path)
    data = dataclasses.replace(run.data, source=source, threads=2, workers=workers)
    run = dataclasses.replace(
        run,
        data=data,
        steps=STEPS,
        batch=8,
        mesh=MeshConfig(data=1),
        log_every_steps=1,
        optim=dataclasses.replace(run.optim, warmup_steps=1),
    )
    loop.run(run, workdir, progress=False)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


@pytest.mark.slow  # compiles the network, and starts interpreters
def test_a_run_from_a_store_is_that_from_a_folder_to_the_bit(folder: Path, tmp_path: Path):
    local = losses(str(folder), 0, tmp_path / "local")
    assert len(local) == STEPS and np.isfinite(local).all()
    for workers in (0, 2):
        there = address(folder, WORKERS_SCHEME)
        assert losses(there, workers, tmp_path / f"{workers}") == local


def stream(folder: Path) -> loader.Stream:
    config = DataConfig(
        source=ImageFolderConfig(path=address(folder)),
        view=CropConfig(image_px=16),
        threads=2,
        max_broken_share=0.2,
    )
    mesh = sharding.make_mesh(MeshConfig(data=1))
    return loader.stream(sources.open_source(config.source), config, seed=0, batch=4, mesh=mesh)


def test_an_object_that_is_gone_is_a_broken_record(folder: Path):
    with stream(folder) as batches:
        next(batches)
        (folder / "a" / "2.png").unlink()
        for _ in range(24):
            next(batches)
        assert list(batches.broken) == ["a/2.png"]
        (reason,) = batches.broken.values()
        assert reason == (
            "fake://bucket/data/a/2.png cannot be read (no such object, folder or bucket): check "
            "the path"
        )


def test_access_that_ends_stops_a_run_with_the_remedy(folder: Path):
    def denied(what: str, path: str) -> None:
        raise PermissionError("Access Denied")

    with stream(folder) as batches:
        next(batches)
        FakeStore.fault = denied
        with pytest.raises(TrainingError, match=r"access denied: Access Denied.*log in"):
            for _ in range(24):
                next(batches)


def test_a_store_that_does_not_answer_ends_a_run_that_may_be_started_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(places, "_PATIENCE_SECONDS", -1)

    def silent(what: str, path: str) -> None:
        raise TimeoutError

    with stream(folder) as batches:
        next(batches)
        FakeStore.fault = silent
        with pytest.raises(DiskError, match="a transient I/O error; start again") as caught:
            for _ in range(24):
                next(batches)
    assert caught.value.exit_code == 75
