"""Fine-tuning a promptable model on one's own pictures."""

from esam_jax.config import (
    CocoConfig,
    ComputeConfig,
    DataConfig,
    EvaluateConfig,
    OptimConfig,
    PromptedConfig,
    RunConfig,
    SaveConfig,
    SegmentConfig,
)


def finetune() -> RunConfig:
    """Your own pictures, from a released model, a file or a run: 20 pictures and more.

    Command   esam train finetune --workdir runs/mine --data.source.path instances.json \\
                  --task.init-from efficientsam_ti
    Hardware  one GPU, or a CPU with patience; what it takes depends on the model and the pictures,
              and `esam train finetune ... --preflight` tries it out.
    Expected  a page, runs/mine/report.html: masks before and after, on pictures held out.

    What the command line leaves out follows the model, the pictures and the machine, by the rules
    of `esam_jax/tasks/own_data.py`, listed in docs/training.md; `config.json` of the run has the
    values. Those here only hold their places. All of it is assumed: nobody has published how to
    fine-tune these models on few pictures.
    """
    return RunConfig(
        name="finetune",
        defaults="own_data",
        task=SegmentConfig(
            model="efficientsam_ti", clicks=3, click_labels="foreground", answers="candidates"
        ),
        data=DataConfig(
            source=CocoConfig(part="train", heldout=20),
            view=PromptedConfig(
                image_px=1024,
                fit="stretch",
                masks=16,
                min_area_px=4,
                flip="horizontal",
                jitter=(0.5, 2.0),
                colour=0.2,
            ),
        ),
        optim=OptimConfig(
            peak_lr=1e-4,
            schedule="cosine",
            weight_decay=0.05,
            encoder_rate=0.1,
            clip_norm=1.0,
        ),
        steps=900,
        batch=8,
        compute=ComputeConfig(dtype="bfloat16", remat="blocks"),
        evaluate=EvaluateConfig(
            source=CocoConfig(part="heldout", heldout=20), every_steps=1, patience=4
        ),
        save=SaveConfig(every_steps=1, best="miou"),
    )
