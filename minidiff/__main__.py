"""Commands: `python -m minidiff convert`, `python -m minidiff doctor`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from minidiff import cli

COMMANDS = {  # each is a module with `main(arguments) -> exit code`, and what help says of it
    "convert": ("minidiff.convert", "say what a checkpoint is, or write it as a folder of diffusers"),
    "doctor": ("minidiff.doctor", "say what works on this machine, and what mends what does not"),
}


def main(arguments: Sequence[str]) -> int:
    """Run the command that is named first; what follows belongs to it."""
    listed = "\n".join(f"  {name:10}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m minidiff",
        epilog=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="see below; each has --help")
    command = parser.parse_args(arguments[:1]).command
    code: int = import_module(COMMANDS[command][0]).main(arguments[1:])
    return code


def run() -> None:
    """What the installed command `minidiff` does."""
    cli.run(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    run()
