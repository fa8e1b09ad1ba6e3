"""Change pictures as a whole: add noise to them, and draw from there.

    python examples/img2img.py --model FOLDER --data-dir FOLDER --strengths 0.2,0.4,0.6,0.8

--model is a pipeline as diffusers saves it; --data-dir holds pictures, IDX files or CIFAR-10, or is "digits". Writes a
picture with a row for each of the first --count pictures: the picture itself, then what becomes of it, the stronger the
further to the right.
"""

import argparse

import numpy as np

from minidiff import Generator, cli, images
from minidiff.data import open_dataset
from minidiff.pipelines import image_to_image


def arguments() -> argparse.Namespace:
    """What the user typed."""
    parser = argparse.ArgumentParser(description="Draw new images out of pictures.")
    number = "default: %(default)s"
    cli.add_pipeline_arguments(parser)
    parser.add_argument("--data-dir", required=True, help="pictures, IDX files, CIFAR-10 binary, or 'digits'")
    cli.add_arguments(parser)
    cli.add_sampling_arguments(parser)
    parser.add_argument("--strengths", default="0.2,0.4,0.6,0.8", help=f"above 0, up to 1 ({number})")
    parser.add_argument("--count", type=cli.positive, default=8, help=f"pictures ({number})")
    parser.add_argument("--label", help="what they shall become (default: what they are)")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help=f"towards the label; 1 is none ({number})"
    )
    parser.add_argument("--output", type=cli.output_file, default="img2img.png", help=number)
    return parser.parse_args()


def parse_strengths(text: str) -> list[float]:
    """Numbers above 0 and up to 1, separated by commas."""
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError:
        raise cli.UsageError(f"--strengths: expected numbers such as 0.2,0.5, got {text!r}") from None
    if not all(0 < strength <= 1 for strength in strengths):
        raise cli.UsageError(f"--strengths: must be above 0 and at most 1, got {text}")
    return strengths


def main() -> None:
    """Draw."""
    args = arguments()
    strengths = parse_strengths(args.strengths)
    backend = cli.choose_device(args.device)
    pipeline = cli.with_sampler(cli.open_pipeline(args, backend), args.sampler, guidance=args.guidance)
    dataset = open_dataset(args.data_dir, pipeline.image_shape[1], pipeline.image_shape[0])
    if dataset.image_shape != pipeline.image_shape:
        raise cli.UsageError(
            f"the network draws {pipeline.image_shape}, {dataset.name} has {dataset.image_shape}"
        )
    pictures, own = dataset.batch(np.arange(min(args.count, len(dataset))))
    null, labels = pipeline.model.null_label, None
    if args.label is not None:
        labels = cli.parse_labels(args.label, 0 if null is None else null + 1)[:1] * len(pictures)
    elif null is not None:
        labels = own.tolist() if own is not None and dataset.num_classes == null else [null] * len(pictures)

    columns = [pictures]
    for strength in strengths:
        with cli.as_usage_error():
            drawn = image_to_image(
                pipeline,
                pictures,
                strength=strength,
                labels=labels,
                guidance=args.guidance,
                steps=args.steps,
                generator=Generator(args.seed, backend),
                batch_size=args.batch_size,
                progress=True,
            )
        columns.append(backend.to_numpy(drawn))
    captions = ["picture", *(f"{strength:g}" for strength in strengths)]
    images.save_png(args.output, images.strip(columns, column_captions=captions))
    print(f"{len(pictures)} pictures, strengths {args.strengths}: {args.output}")


if __name__ == "__main__":
    cli.run(main)
