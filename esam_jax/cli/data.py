"""`esam data COMMAND ...`: what can be done with a data set before it is trained on."""

import importlib
from collections.abc import Sequence

from esam_jax.errors import ConfigError

COMMANDS = {  # each in cli/data_NAME.py
    "index": "where the files of tar archives lie, so that they are read without unpacking",
    "check": "read everything: what is broken, sizes, masks, duplicates",
    "show": "a page of examples with their masks, as training sees them",
    "subset": "a list of pictures by share, size and number of masks",
    "pack": "any data set in large files, with checksums, read by random access",
}


def main(argv: Sequence[str]) -> int:
    """Runs `esam_jax.cli.data_COMMAND`; ConfigError where no known one is named."""
    usage = f"esam data {'|'.join(COMMANDS)}"
    if not argv:
        raise ConfigError(f"no command is named: write {usage}")
    if argv[0] in ("-h", "--help"):
        print(f"usage: {usage} ...   (esam data COMMAND --help says more)\n")
        print("\n".join(f"  {name:<12}{about}" for name, about in COMMANDS.items()))
        return 0
    if argv[0].startswith("-"):
        raise ConfigError(f"the command comes first: write {usage}")
    if argv[0] not in COMMANDS:
        raise ConfigError(f"the command is {argv[0]!r}, but must be one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"esam_jax.cli.data_{argv[0]}").main(argv[1:])
