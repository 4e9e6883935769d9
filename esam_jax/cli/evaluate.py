"""`esam evaluate TASK --model M --data D`: a measurement, with its protocol."""

from collections.abc import Sequence

from esam_jax.cli import subcommands

TASKS = {
    "prompts": "mIoU of masks from boxes and clicks",
    "instances": "AP of masks from the boxes of a detector, or of anybody's results",
    "proposals": "AR@10, AR@100 and AR@1000 of object proposals, or of anybody's results",
    "text": "mIoU of the masks that rank first for the names of categories",
    "classify": "top-1 and top-5 of classes",
    "salient": "MAE, F and S-measure of saliency maps, mIoU of masks for them",
    "edges": "ODS, OIS, AP and R50 of edge maps",
}


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; a missing model or data set is reported before weights are read."""
    return subcommands.run("evaluate", TASKS, argv, called="task", arguments="--model M --data D")
