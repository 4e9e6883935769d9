"""`esam data COMMAND ...`: what can be done with a data set before it is trained on."""

from collections.abc import Sequence

from esam_jax.cli import subcommands

COMMANDS = {  # each in cli/data_NAME.py
    "index": "where the files of tar archives lie, so that they are read without unpacking",
    "check": "read everything: what is broken, sizes, masks, duplicates",
    "show": "a page of examples with their masks, as training sees them",
    "subset": "a list of pictures by share, size and number of masks",
    "pack": "any data set in large files, with checksums, read by random access",
}


def main(argv: Sequence[str]) -> int:
    """Runs `esam_jax.cli.data_COMMAND`; ConfigError where no known one is named."""
    return subcommands.run("data", COMMANDS, argv)
