"""The figures of docs/rope_explained.md, what each shows and the options it reads; imports no TensorFlow."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runs.arguments import scalings, tokens


@dataclass(frozen=True)
class Drawing:
    """A figure: the function of its name in a module of `docs.figures`, and its options by default."""

    module: str
    shows: str
    options: Mapping[str, object]


def even(text: str) -> int:
    if (number := tokens(text)) % 2:
        raise argparse.ArgumentTypeError(f"must be even to form rotation pairs, got {text}")
    return number


def multiple_of_four(text: str) -> int:
    if (number := tokens(text)) % 4:
        raise argparse.ArgumentTypeError(f"must be a multiple of 4: pairs of rows and of columns, got {text}")
    return number


def above(limit: float) -> Callable[[str], float]:
    """The type of a finite number above a limit."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not limit < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a finite number above {limit:g}, got {text!r}")
        return value

    return number


# Of each option: how it is read, and what it means.
OPTIONS: dict[str, tuple[dict[str, object], str]] = {
    "dim": ({"type": even}, "features of a head"),
    "head_dim": ({"type": multiple_of_four}, "features of a head, for rows and columns"),
    "theta": ({"type": above(1)}, "rotation base"),
    "length": ({"type": tokens}, "positions"),
    "position": ({"type": tokens}, "position of the token"),
    "frequency": ({"type": above(0)}, "radians a position"),
    "factor": ({"type": above(1)}, "how many times longer the context becomes"),
    "scaling": ({"type": scalings}, "which scalings, separated by commas"),
    "layout": ({"choices": ("interleaved", "half")}, "which features are a pair"),
    "scale_base": ({"type": above(0)}, "tokens of the decay of xPos"),
    "size": ({"type": tokens}, "rows and columns of the grid"),
    "seed": ({"type": int}, "of the vectors, which are drawn at random"),
}

THETA = 10_000.0
FIGURES: dict[str, Drawing] = {
    "order": Drawing(
        "before",
        "two sentences of the same words, without positions and with rotation",
        {"dim": 32, "theta": THETA, "seed": 1},
    ),
    "absolute": Drawing(
        "before", "learned and sinusoidal tables, and where they end", {"dim": 32, "length": 64, "seed": 0}
    ),
    "moving": Drawing(
        "before",
        "the score of one pair of words while the pair moves along the text",
        {"dim": 64, "theta": THETA, "length": 128, "seed": 0},
    ),
    "relative": Drawing("before", "a bias by distance", {"length": 24}),
    "turn": Drawing("turning", "one pair of features turned by its position", {"frequency": 0.5}),
    "pairs": Drawing("turning", "the pairs of a head as clocks", {"dim": 8, "theta": THETA}),
    "frequencies": Drawing(
        "turning", "tokens of a full turn of each pair", {"dim": 64, "theta": THETA, "length": 256}
    ),
    "matrix": Drawing(
        "turning",
        "the matrix of the rotation, and the two products that it is",
        {"dim": 8, "theta": 100.0, "position": 3, "layout": "interleaved"},
    ),
    "distance": Drawing(
        "turning",
        "scores by the positions of query and key, added sinusoids beside rotation",
        {"dim": 64, "theta": THETA, "length": 48, "seed": 0},
    ),
    "decay": Drawing(
        "fading",
        "the bound of arXiv 2104.09864, section 3.4.3, by distance",
        {"dim": 128, "theta": THETA, "length": 256},
    ),
    "xpos": Drawing(
        "fading",
        "what xPos multiplies, and the score by distance",
        {"dim": 64, "theta": THETA, "length": 2048, "scale_base": 512.0},
    ),
    "interpolation": Drawing(
        "stretching",
        "angles seen in training and new ones, without scaling and interpolated",
        {"dim": 8, "theta": 100.0, "length": 16, "factor": 2.0},
    ),
    "scalings": Drawing(
        "stretching",
        "what the scalings leave of each frequency",
        {
            "dim": 64,
            "theta": THETA,
            "length": 256,
            "factor": 4.0,
            "scaling": ["linear", "ntk", "dynamic", "yarn"],
        },
    ),
    "grid": Drawing(
        "grids",
        "axial and mixed rotation over an image",
        {"head_dim": 16, "theta": 10.0, "size": 15, "seed": 0},
    ),
    "learned": Drawing(
        "grids", "angles from positions, and rotations made from the tokens", {"frequency": 0.5, "seed": 0}
    ),
}
