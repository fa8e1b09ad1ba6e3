r"""Train a U-Net of diffusers further on your own pictures, or a new one, without PyTorch.

    python examples/finetune.py --model FOLDER --data-dir FOLDER

--model is a pipeline as diffusers saves it: `model_index.json`, `unet/`, `scheduler/`. Without it a new network is
made. --data-dir holds pictures, IDX files or CIFAR-10 as in train_images.py; "digits" are handwritten digits of 8x8
pixels that minidiff brings, for a first run of a few minutes:

    python examples/finetune.py --data-dir digits --output-dir outputs/digits-unet --channels 32,64 \
        --train-batch-size 32 --learning-rate 1e-3

The averaged weights are written as a pipeline of diffusers into OUTPUT_DIR/pipeline, now and then and at the end. Flags
are named as in diffusers' script for unconditional training. The same command goes on with a run that was stopped.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from minidiff import Generator, cli, images, ops
from minidiff.data import Dataset, open_dataset
from minidiff.diffusion import BETA_SCHEDULES, DDPM, PREDICTION_TYPES
from minidiff.models import UNet2DModel
from minidiff.optim import EMA, AdamW, lr
from minidiff.pipelines import Pipeline, generate, load_pipeline, save_pipeline, training_objective
from minidiff.training import Trainer


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Train a U-Net of diffusers.")
    parser.add_argument("--model", type=Path, help="a folder of diffusers (default: a new network)")
    parser.add_argument("--variant", help="of its weights: fp16 for *.fp16.safetensors")
    parser.add_argument("--data-dir", required=True, help="pictures, IDX files, CIFAR-10 binary, or 'digits'")
    parser.add_argument("--resolution", type=cli.positive, help="side in pixels (default: the network's)")
    parser.add_argument("--random-flip", action="store_true", help="mirror half of the pictures")
    cli.add_arguments(parser, output_dir="outputs/finetuned")
    number = "default: %(default)s"
    parser.add_argument(
        "--train-batch-size", type=cli.positive, default=16, help=f"images per step ({number})"
    )
    parser.add_argument(
        "--num-epochs", type=cli.positive, default=20, help=f"times to see each picture ({number})"
    )
    parser.add_argument("--learning-rate", type=cli.positive_float, default=1e-4, help=f"its peak ({number})")
    parser.add_argument(
        "--lr-warmup-steps", type=cli.natural, default=500, help=f"or half of all, if less ({number})"
    )
    parser.add_argument("--adam-weight-decay", type=cli.not_negative, default=1e-6, help=number)
    parser.add_argument("--ema-max-decay", type=cli.share, default=0.9995, help=number)
    parser.add_argument(
        "--min-snr-gamma", type=cli.positive_float, help="weigh the loss by min-SNR, 5 is usual (default: no)"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument(
        "--save-images-steps", type=cli.positive, default=500, help=f"between pictures ({number})"
    )
    parser.add_argument(
        "--checkpointing-steps", type=cli.positive, default=500, help=f"between checkpoints ({number})"
    )
    parser.add_argument(
        "--ddpm-num-inference-steps", type=cli.positive, default=50, help=f"for pictures ({number})"
    )
    parser.add_argument(
        "--restart", action="store_true", help="delete the run in --output-dir and start anew"
    )
    new = parser.add_argument_group("a new network")
    new.add_argument("--channels", default="64,128,256", help=f"at each resolution ({number})")
    new.add_argument("--layers-per-block", type=cli.positive, default=2, help=number)
    new.add_argument(
        "--prediction-type", default="v_prediction", choices=[p for p in PREDICTION_TYPES if "flow" not in p]
    )
    new.add_argument("--ddpm-beta-schedule", default="squaredcos_cap_v2", choices=BETA_SCHEDULES, help=number)
    return parser.parse_args()


def new_pipeline(args: argparse.Namespace, dataset: Dataset, rng: Generator) -> Pipeline:
    """A network for these pictures: attention where they are at most 16 pixels large, but not at full size."""
    try:
        channels = [cli.positive(text) for text in args.channels.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        raise cli.UsageError(f"--channels: expected numbers such as 64,128, got {args.channels!r}") from None
    colours, side, _ = dataset.image_shape
    attends = [i > 0 and side >> i <= 16 for i in range(len(channels))]
    model = UNet2DModel(
        sample_size=side,
        in_channels=colours,
        out_channels=colours,
        block_out_channels=channels,
        layers_per_block=args.layers_per_block,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        norm_num_groups=math.gcd(32, *channels),
        num_class_embeds=dataset.num_classes + 1 if dataset.num_classes else None,  # the last one means any
        rng=rng,
    )
    return Pipeline(model, DDPM(beta_schedule=args.ddpm_beta_schedule, prediction_type=args.prediction_type))


def check(pipeline: Pipeline, dataset: Dataset) -> None:
    """Say why pictures and network do not fit, if they do not."""
    config = pipeline.model.config
    takes, halvings = config["in_channels"], len(config["block_out_channels"]) - 1
    colours, side, _ = dataset.image_shape
    if takes != colours:
        raise cli.UsageError(f"the network takes images of {takes} channels, {dataset.name} has {colours}")
    if side % 2**halvings:
        raise cli.UsageError(
            f"the network halves images {halvings} times, which {side} pixels do not allow; "
            f"give pictures of {math.ceil(side / 2**halvings) * 2**halvings}, or fewer --channels"
        )
    check_classes(pipeline.model, dataset)


def check_classes(model: UNet2DModel, dataset: Dataset) -> None:
    """Say why classes and labels do not fit, if they do not."""
    kind, rows = model.config["class_embed_type"], model.config["num_class_embeds"]
    if model.class_embedding is None or (kind is None and dataset.num_classes in (rows, rows - 1)):
        return
    if kind is not None:
        raise cli.UsageError(f"the network takes labels of class_embed_type={kind!r}, which are no classes")
    raise cli.UsageError(
        f"the network has {rows} labels, {dataset.name} has {dataset.num_classes} classes; give pictures in {rows} "
        f"sub-folders, one for each label, or in {rows - 1} if the last label shall mean any"
    )


def open_both(args: argparse.Namespace, rng: Generator) -> tuple[Pipeline, Dataset]:
    """The network, read or new, and pictures that fit it."""
    loaded = load_pipeline(args.model, device=rng.backend, variant=args.variant) if args.model else None
    channels, size, _ = loaded.image_shape if loaded else (3, None, None)
    dataset = open_dataset(args.data_dir, args.resolution or size, channels)
    with cli.as_usage_error():
        pipeline = loaded or new_pipeline(args, dataset, rng)
    check(pipeline, dataset)
    if args.gradient_checkpointing:
        pipeline.model.enable_gradient_checkpointing()
    if args.resolution:  # from now on it draws images of this size
        pipeline.model.config["sample_size"] = args.resolution
    return Pipeline(pipeline.model, pipeline.sampler), dataset


def main() -> int:
    """Train; the exit code is 130 if Ctrl-C ended it early."""
    args = arguments()
    backend = cli.choose_device(args.device)
    rng = Generator(args.seed, backend)
    pipeline, dataset = open_both(args, rng)
    model = pipeline.model
    labelled = model.class_embedding is not None
    hides = labelled and dataset.num_classes == model.null_label  # the last label means any class
    with cli.as_usage_error():
        objective = training_objective(
            pipeline.sampler, null_probability=0.1 if hides else 0.0, min_snr_gamma=args.min_snr_gamma
        )
        ema = EMA(model, decay=args.ema_max_decay)
        pipeline.sampler.set_timesteps(args.ddpm_num_inference_steps)  # now, not before the first picture
    steps = math.ceil(args.num_epochs * len(dataset) / args.train_batch_size)
    print(
        f"data: {dataset}\nmodel: {model.num_parameters():,} parameters, trained by {type(objective).__name__}"
    )
    print(f"files: {args.output_dir}")

    def loss(network: Any, x: Any, labels: Any, noise: Generator) -> Any:
        if args.random_flip:
            mirrored = ops.reshape(noise.uniform(x.shape[0]) < 0.5, (-1, 1, 1, 1))
            x = ops.where(mirrored, ops.flip(x, axis=3), x)
        known = {"labels": labels, "null_label": model.null_label} if labelled else {}
        return objective.loss(network, x, noise, **known)

    def save(step: int) -> None:
        """Write the pipeline, and a picture of what it draws."""
        save_pipeline(pipeline, args.output_dir / "pipeline")
        labels = [i % dataset.num_classes for i in range(20)] if labelled else None
        drawn = generate(
            pipeline,
            20,
            labels=labels,
            steps=args.ddpm_num_inference_steps,
            generator=Generator(args.seed, backend),
            progress=True,
        )
        path = args.output_dir / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.save_png(path, images.grid(drawn, columns=10 if labelled else 5))

    elsewhere = {
        "device", "output_dir", "restart", "save_images_steps", "checkpointing_steps", "ddpm_num_inference_steps",
        "gradient_checkpointing",
    }  # fmt: skip
    trainer = Trainer(
        model=model,
        loss=loss,
        dataset=dataset,
        optimizer=AdamW(
            model.trained_parameters(),
            lr=lr.warmup_cosine(args.learning_rate, min(args.lr_warmup_steps, steps // 2), steps),
            weight_decay=args.adam_weight_decay,
        ),
        ema=ema,
        rng=rng,
        output_dir=args.output_dir,
        description={
            "objective": objective.describe(),
            "dataset": dataset.name,
            "settings": {key: str(value) for key, value in vars(args).items() if key not in elsewhere},
        },
        steps=steps,
        batch_size=args.train_batch_size,
        checkpoint_every=args.checkpointing_steps,
        sample_every=args.save_images_steps,
        on_sample=save,
    )
    then = f"python examples/sample_pretrained.py --model {args.output_dir / 'pipeline'}"
    return cli.train(trainer, restart=args.restart, then=then)


if __name__ == "__main__":
    cli.run(main)
