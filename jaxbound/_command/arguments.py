"""Defines the arguments of the command, and what --help says."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

import jaxbound as jb

METHODS = ("ibp", "lbp", "crown_ibp", "crown_lbp", "crown", "alpha_crown")

VERIFY = """\
Decides whether a network has a property.

  jaxbound verify net.onnx property.vnnlib --timeout 60
  jaxbound verify --instances instances.csv --results results.csv

A property (VNN-LIB) describes inputs, and outputs that they must not have. The answer is one word:
  unsat     no input has such an output: the property holds
  sat       an input has: it is printed below, with its output
  unknown   neither could be shown
  timeout   nor within the time
"""
CODES = """\
exit codes: 0 unsat, or all instances answered; 1 sat; 2 wrong arguments; 3 unknown; 4 timeout;
            5 an error (a line on standard error says which); 130 interrupted
"""
BOUNDS = """\
Prints what each output of a network lies between, for all inputs near a given one.

  jaxbound bounds net.onnx --center x.npy --eps 0.01 --method crown
"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments; exits where they do not fit."""
    args = make_parser().parse_args(arguments)
    if args.part == "verify":
        check_verify(args)
    return args


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of all arguments."""
    parser = argparse.ArgumentParser(
        prog="jaxbound",
        description="Certified bounds of neural networks in ONNX, and verdicts on their properties.",
    )
    parser.add_argument("--version", action="version", version=f"jaxbound {jb.__version__}")
    parts = parser.add_subparsers(dest="part", required=True, metavar="verify | bounds")
    add_verify(parts.add_parser("verify", help="decide whether a property holds"))
    add_bounds(parts.add_parser("bounds", help="bound a network's outputs"))
    for part in parts.choices.values():
        part.formatter_class, part.epilog = argparse.RawDescriptionHelpFormatter, CODES
        part.add_argument("--device", choices=("cpu", "gpu", "tpu"), help="default: JAX's choice")
        part.add_argument("--verbose", action="store_true", help="say more, on standard error")
    return parser


def add_verify(part: argparse.ArgumentParser) -> None:
    """Adds the arguments of `jaxbound verify`."""
    part.description = VERIFY
    part.add_argument("network", nargs="?", type=Path, help="a file in ONNX (.onnx or .onnx.gz)")
    part.add_argument("property", nargs="?", type=Path, help="a file in VNN-LIB, or packed (.gz)")
    part.add_argument("--out", type=Path, help="write the answer to this file, too")
    part.add_argument(
        "--timeout",
        type=positive,
        help="seconds from start to end; default: 60, or what each instance allows",
    )
    part.add_argument(
        "--split",
        choices=("auto", "hidden", "input"),
        default="auto",
        help="what is split where bounds do not decide: hidden values, or boxes of inputs; default: auto",
    )
    many = part.add_argument_group("a whole benchmark, instead of one network and property")
    many.add_argument(
        "--instances", type=Path, help="a CSV file of onnx,vnnlib,timeout as of VNN-COMP"
    )
    many.add_argument(
        "--results",
        type=Path,
        help="a CSV file that gets a line for each instance; those it has are not decided again",
    )
    many.add_argument(
        "--only", type=regex, help="a regular expression: instances whose 'onnx vnnlib' has it"
    )
    many.add_argument(
        "--witnesses", type=Path, help="a folder that gets a file for each answer `sat`"
    )
    part.set_defaults(fail=part.error)


def check_verify(args: argparse.Namespace) -> None:
    """Exits unless there is one network and property, or a benchmark and its results."""
    if args.instances is None:
        wrong = [f"--{name}" for name in ("results", "only", "witnesses") if getattr(args, name)]
        if wrong:
            args.fail(f"{wrong[0]} needs --instances")
        if args.property is None:
            args.fail("a network and a property are needed, or --instances and --results")
    elif args.network is not None or args.out is not None:
        args.fail("--instances takes no network, property or --out beside it")
    elif args.results is None:
        args.fail("--instances needs --results")


def add_bounds(part: argparse.ArgumentParser) -> None:
    """Adds the arguments of `jaxbound bounds`."""
    part.description = BOUNDS
    part.add_argument("network", type=Path, help="a file in ONNX (.onnx or .onnx.gz)")
    part.add_argument(
        "--center",
        type=Path,
        nargs="+",
        required=True,
        help="an input as NumPy saves it (.npy); a file for each input of the network",
    )
    part.add_argument(
        "--eps", type=not_negative, required=True, help="how far inputs may be from it"
    )
    part.add_argument(
        "--p",
        type=at_least_one,
        default=math.inf,
        help="norm of the distance; default: inf, each element",
    )
    part.add_argument(
        "--clip",
        type=number,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the range that inputs have anyway",
    )
    part.add_argument("--method", choices=METHODS, default="crown", help="default: crown")
    part.add_argument(
        "--float64",
        action="store_true",
        help="compute in float64 instead of the type of the network",
    )
    part.add_argument("--json", action="store_true", help="print JSON instead of a table")


def positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number > 0")
    return value


def number(text: str) -> float:
    value = float(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number >= 0")
    return value


def at_least_one(text: str) -> float:
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number >= 1")
    return value


def regex(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {error}") from None
