"""`esam engine COMMAND ...`: SAM's data engine, in which a model and a person annotate in turn."""

import importlib
from collections.abc import Sequence

from esam_jax.errors import ConfigError

COMMANDS = {  # each in cli/engine_NAME.py
    "assist": "a model's masks as COCO json, for a person to correct",
    "merge": "what a person corrected, as data that can be trained on",
    "semi": "confident masks as annotated already, and questions about the rest",
    "auto": "every mask, with the settings by which SA-1B was made",
    "loop": "annotating and training in turn, measured after each round",
}


def main(argv: Sequence[str]) -> int:
    """Runs `esam_jax.cli.engine_COMMAND`; ConfigError where no known one is named."""
    usage = f"esam engine {'|'.join(COMMANDS)}"
    if not argv:
        raise ConfigError(f"no command is named: write {usage}")
    if argv[0] in ("-h", "--help"):
        print(f"usage: {usage} ...   (esam engine COMMAND --help says more)\n")
        print("\n".join(f"  {name:<12}{about}" for name, about in COMMANDS.items()))
        return 0
    if argv[0].startswith("-"):
        raise ConfigError(f"the command comes first: write {usage}")
    if argv[0] not in COMMANDS:
        raise ConfigError(f"the command is {argv[0]!r}, but must be one of {', '.join(COMMANDS)}")
    return importlib.import_module(f"esam_jax.cli.engine_{argv[0]}").main(argv[1:])
