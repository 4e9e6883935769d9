"""`esam evaluate TASK --model M --data D`: a measurement, with its protocol."""

import importlib
from collections.abc import Sequence

from esam_jax.errors import ConfigError

TASKS = {
    "prompts": "mIoU of masks from boxes and clicks",
    "instances": "AP of masks from the boxes of a detector, or of anybody's results",
    "proposals": "AR@10, AR@100 and AR@1000 of object proposals, or of anybody's results",
    "text": "mIoU of the masks that rank first for the names of categories",
    "classify": "top-1 and top-5 of classes",
    "salient": "MAE, F and S-measure of saliency maps, mIoU of masks for them",
    "edges": "ODS, OIS, AP and R50 of edge maps",
}
_USAGE = f"esam evaluate {'|'.join(TASKS)} --model M --data D"


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; a missing model or data set is reported before weights are read."""
    if not argv:
        raise ConfigError(f"no task is named: write {_USAGE}")
    if argv[0] in ("-h", "--help"):
        print(f"usage: {_USAGE} ...   (esam evaluate TASK --help says more)\n")
        print("\n".join(f"  {name:<12}{about}" for name, about in TASKS.items()))
        return 0
    if argv[0].startswith("-"):
        raise ConfigError(f"the task comes first: write {_USAGE}")
    if argv[0] not in TASKS:
        raise ConfigError(f"the task is {argv[0]!r}, but must be one of {', '.join(TASKS)}")
    return importlib.import_module(f"esam_jax.cli.evaluate_{argv[0]}").main(argv[1:])
