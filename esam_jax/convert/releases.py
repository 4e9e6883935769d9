"""Public weights by name: where they are released and kept, and whether they are intact.

A preset is a file at the address of its release; a hub id is a repository on the Hugging Face hub.
What is downloaded stays in the cache folder, and what somebody put there by hand is used alike.
"""

import contextlib
import dataclasses
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from esam_jax import files
from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError, MissingError

_TIMEOUT_S = 30
_HUB_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_HUB_TORCH_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")  # of older repositories
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True)
class Release:
    """One released file; `sha256` is None where no trusted value is known, or its beginning where
    no more is, as PyTorch's hub has it in the names of files."""

    address: str
    sha256: str | None
    licence: str

    @property
    def file(self) -> Path:
        """Where the file is kept."""
        return files.user_cache() / self.address.rsplit("/", 1)[-1]


_SAM = "https://dl.fbaipublicfiles.com/segment_anything"
_EFFICIENTSAM = "https://github.com/yformer/EfficientSAM/raw/main/weights"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_MAE = "https://dl.fbaipublicfiles.com/mae/pretrain"
_DEIT = "https://dl.fbaipublicfiles.com/deit"


def _clip(file: str, sha256: str) -> Release:
    """The address of a file of OpenAI's has its checksum in it."""
    return Release(f"{_CLIP}/{sha256}/{file}", sha256, "MIT")


def _deit(network: str, sha256: str) -> Release:
    """The name of a file of DeiT's (models.py) ends in the beginning of its checksum."""
    return Release(f"{_DEIT}/{network}-{sha256}.pth", sha256, "Apache-2.0")


RELEASES = {
    "efficientsam_ti": Release(f"{_EFFICIENTSAM}/efficient_sam_vitt.pt", None, "Apache-2.0"),
    "efficientsam_s": Release(f"{_EFFICIENTSAM}/efficient_sam_vits.pt.zip", None, "Apache-2.0"),
    "sam_b": Release(
        f"{_SAM}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        "Apache-2.0",
    ),
    "sam_l": Release(
        f"{_SAM}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        "Apache-2.0",
    ),
    "sam_h": Release(
        f"{_SAM}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        "Apache-2.0",
    ),
    "mobile_sam": Release(
        "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        "Apache-2.0",
    ),
    "mae_b": Release(f"{_MAE}/mae_pretrain_vit_base.pth", None, "CC-BY-NC-4.0"),
    "mae_l": Release(f"{_MAE}/mae_pretrain_vit_large.pth", None, "CC-BY-NC-4.0"),
    "mae_h": Release(f"{_MAE}/mae_pretrain_vit_huge.pth", None, "CC-BY-NC-4.0"),
    "deit_ti": _deit("deit_tiny_patch16_224", "a1311bcf"),
    "deit_s": _deit("deit_small_patch16_224", "cd65a155"),
    "deit_b": _deit("deit_base_patch16_224", "b5f2ef4d"),
    "deit_ti_distilled": _deit("deit_tiny_distilled_patch16_224", "b40b3cf7"),
    "deit_s_distilled": _deit("deit_small_distilled_patch16_224", "649709d9"),
    "deit_b_distilled": _deit("deit_base_distilled_patch16_224", "df68dfff"),
    "regnety_16gf": _deit("regnety_160", "a5fe301d"),
    "clip_b_32": _clip(
        "ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    ),
    "clip_b_16": _clip(
        "ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    ),
    "clip_l_14": _clip(
        "ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
    ),
    "clip_l_14_336": _clip(
        "ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"
    ),
}


def fetch(release: Release) -> Path:
    """The file of a release, downloaded unless it is there; its checksum is right if it is known.

    MissingError, with the address and the place to put the file, when it cannot be downloaded;
    CheckpointError when it is another file than was released.
    """
    file = release.file
    if not file.is_file():
        _download(release)
    _check(file, release)
    return file


def is_hub_id(source: str) -> bool:
    """Whether a text that names no file may be `organisation/name` on the hub.

    A folder called like the organisation makes it a path: of a run that was misspelt, most likely.
    """
    return bool(_HUB_ID.fullmatch(source)) and not os.path.lexists(Path(source).parent)


def fetch_repository(name: str) -> Path:
    """A folder with config.json and the weights of a hub repository: safetensors where it has any.

    MissingError with what to do by hand when it is not there and the hub cannot be reached.
    """
    import huggingface_hub

    # Files, where the hub's own cache would have links to files elsewhere.
    folder = files.user_cache() / name.replace("/", "--")
    try:
        for patterns in (_HUB_FILES, _HUB_TORCH_FILES):
            huggingface_hub.snapshot_download(name, local_dir=folder, allow_patterns=list(patterns))
            if any(folder.glob("*.safetensors")):
                break
        return folder
    except Exception as error:  # its own types, those of its HTTP library, and OSError
        raise MissingError(
            f"{name!r} is not a local file and could not be downloaded from the hub "
            f"({_short(error)}); download config.json and model.safetensors from "
            f"https://huggingface.co/{name} into {folder} and name that folder"
        ) from error


def _download(release: Release) -> None:
    """Downloads the file of a release; an interrupted download leaves nothing."""
    file = release.file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        request = urllib.request.Request(release.address, headers={"User-Agent": "esam_jax"})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer,
            files.replacing(file) as out,
        ):
            shutil.copyfileobj(answer, out, 1 << 20)
            wanted = answer.headers.get("Content-Length")
            if wanted is not None and out.tell() != int(wanted):
                raise OSError(f"the connection ended after {out.tell()} of {wanted} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer, too
        raise MissingError(
            f"{release.address} cannot be downloaded ({_short(error)}); download it elsewhere and "
            f"put it at {file}, or name a file that is here"
        ) from error


def _check(file: Path, release: Release) -> None:
    if release.sha256 is None or _seen_whole(file, release.sha256):
        return
    found = bounds.sha256(file)
    if not found.startswith(release.sha256):
        raise CheckpointError(
            f"{file} is not the file released at {release.address}: its SHA-256 is {found}, not "
            f"{release.sha256}; delete it, and it will be downloaded again"
        )
    with contextlib.suppress(OSError):  # a folder that cannot be written: checked every time
        files.write(_note(file), _state(file, release.sha256))


def _seen_whole(file: Path, sha256: str) -> bool:
    """Whether this very file was checked before: hashing 2.5 GB at every start takes seconds."""
    note = _note(file)
    return note.is_file() and note.read_text() == _state(file, sha256)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _state(file: Path, sha256: str) -> str:
    stat = file.stat()
    return f"{sha256} {stat.st_size} {stat.st_mtime_ns}\n"


def _short(error: Exception) -> str:
    """The first line of an error, which may be a page long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
