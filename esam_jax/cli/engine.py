"""`esam engine COMMAND ...`: SAM's data engine, in which a model and a person annotate in turn."""

from collections.abc import Sequence

from esam_jax.cli import subcommands

COMMANDS = {  # each in cli/engine_NAME.py
    "assist": "a model's masks as COCO json, for a person to correct",
    "merge": "what a person corrected, as data that can be trained on",
    "semi": "confident masks as annotated already, and questions about the rest",
    "auto": "every mask, with the settings by which SA-1B was made",
    "loop": "annotating and training in turn, measured after each round",
}


def main(argv: Sequence[str]) -> int:
    """Runs `esam_jax.cli.engine_COMMAND`; ConfigError where no known one is named."""
    return subcommands.run("engine", COMMANDS, argv)
