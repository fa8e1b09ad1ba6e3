"""Draw parts of pictures anew, so that they fit what is left.

    python examples/inpaint.py --model FOLDER --data-dir FOLDER --mask right --method repaint

--model is a pipeline as diffusers saves it; --data-dir holds pictures, IDX files or CIFAR-10, or is "digits". --mask is
left, right, top, bottom, middle, or a picture that is white where something new shall be drawn. Writes a picture with a
row for each of the first --count pictures: the picture, what is left of it, and --per-picture ways to complete it.
"""

import argparse
from collections.abc import Callable

import numpy as np
from PIL import Image

from minidiff import Generator, cli, images
from minidiff.data import open_dataset
from minidiff.pipelines import inpaint, repaint

MASKS: dict[
    str, Callable[[int, int], tuple[slice, slice]]
] = {  # of (height, width): rows and columns that are drawn anew
    "left": lambda h, w: (slice(None), slice(0, w // 2)),
    "right": lambda h, w: (slice(None), slice(w // 2, None)),
    "top": lambda h, w: (slice(0, h // 2), slice(None)),
    "bottom": lambda h, w: (slice(h // 2, None), slice(None)),
    "middle": lambda h, w: (slice(h // 4, h - h // 4), slice(w // 4, w - w // 4)),
}


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Draw parts of pictures anew.")
    number = "default: %(default)s"
    cli.add_pipeline_arguments(parser)
    parser.add_argument("--data-dir", required=True, help="pictures, IDX files, CIFAR-10 binary, or 'digits'")
    cli.add_arguments(parser)
    cli.add_sampling_arguments(parser)
    parser.add_argument("--mask", default="bottom", help=f"{', '.join(MASKS)}, or a picture ({number})")
    parser.add_argument("--method", choices=("blend", "repaint"), default="repaint", help=number)
    parser.add_argument(
        "--jump-length", type=cli.positive, default=5, help=f"of repaint, in steps ({number})"
    )
    parser.add_argument(
        "--jump-n-sample", type=cli.positive, default=5, help=f"of repaint: how often ({number})"
    )
    parser.add_argument("--count", type=cli.positive, default=8, help=f"pictures ({number})")
    parser.add_argument(
        "--per-picture", type=cli.positive, default=4, help=f"ways to complete each ({number})"
    )
    parser.add_argument("--output", type=cli.output_file, default="inpaint.png", help=number)
    return parser.parse_args()


def read_mask(text: str, height: int, width: int) -> np.ndarray:
    """1 where something new is drawn, shape (1, 1, height, width)."""
    mask = np.zeros((1, 1, height, width), dtype=np.float32)
    if text in MASKS:
        mask[0, 0][MASKS[text](height, width)] = 1
        return mask
    try:
        with Image.open(text) as picture:
            levels = np.asarray(picture.convert("L").resize((width, height)))
    except OSError as error:
        raise cli.UsageError(
            f"--mask: neither {', '.join(MASKS)} nor a picture that can be read: {error}"
        ) from None
    mask[0, 0] = levels > 127
    return mask


def main() -> None:
    """Draw."""
    args = arguments()
    backend = cli.choose_device(args.device)
    pipeline = cli.with_sampler(cli.open_pipeline(args, backend), args.sampler)
    shape = pipeline.image_shape
    mask = read_mask(args.mask, *shape[1:])
    dataset = open_dataset(args.data_dir, shape[1], shape[0])
    if dataset.image_shape != shape:
        raise cli.UsageError(f"the network draws {shape}, {dataset.name} has {dataset.image_shape}")
    pictures, _ = dataset.batch(np.arange(min(args.count, len(dataset))))
    repeated = pictures.repeat(args.per_picture, axis=0)
    null = pipeline.model.null_label
    options = {
        "labels": None if null is None else [null] * len(repeated),  # any: it shall say itself what it sees
        "steps": args.steps,
        "generator": Generator(args.seed, backend),
        "batch_size": args.batch_size,
        "progress": True,
    }
    with cli.as_usage_error():
        if args.method == "blend":
            drawn = inpaint(pipeline, repeated, mask, **options)
        else:
            jumps = {"jump_length": args.jump_length, "jump_n_sample": args.jump_n_sample}
            drawn = repaint(pipeline, repeated, mask, **jumps, **options)

    left = pictures * (1 - mask)  # what is hidden is shown grey
    ways = backend.to_numpy(drawn).reshape(len(pictures), args.per_picture, *shape)
    columns = [pictures, left, *ways.swapaxes(0, 1)]
    captions = ["picture", "left", *(str(i + 1) for i in range(args.per_picture))]
    images.save_png(args.output, images.strip(columns, column_captions=captions))
    print(f"{len(pictures)} pictures, {args.per_picture} ways each: {args.output}")


if __name__ == "__main__":
    cli.run(main)
