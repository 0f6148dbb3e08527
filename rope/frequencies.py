"""Frequencies of the rotated pairs, and the rules on the arguments of `RotaryEmbedding`, in NumPy float64."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rope.scaling import scale_frequencies, scaling_type

# Options read only by some kinds of frequencies, or by xPos; elsewhere they must keep these values.
DEFAULTS: dict[str, Any] = {
    "theta": 10_000.0,
    "theta_rescale_factor": 1.0,
    "max_freq": 10.0,
    "pixel_spacing": "linear",
    "num_freqs": 1,
    "xpos_scale_base": 512.0,
    "xpos_max_length": 4_096,
}
READ_BY: dict[str, tuple[str, ...]] = {
    "lang": ("theta", "theta_rescale_factor"),
    "pixel": ("max_freq", "pixel_spacing"),
    "constant": ("num_freqs",),
    "custom": (),
}
# Length in units of xpos_scale_base at which the largest scale of xPos reaches 7e34.
XPOS_MAX_SPAN = 128


def language_frequencies(dim: int, *, theta: float = 10_000.0) -> np.ndarray:
    """(dim / 2,) radians per token, theta^(-2i / dim) in float64 (Su et al. 2021, arXiv 2104.09864)."""
    check_dim(dim)
    if not theta > 1:
        raise ValueError(f"theta must be above 1, got {theta}.")
    return theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)


def pixel_frequencies(dim: int, *, max_freq: float = 10.0, spacing: str = "linear") -> np.ndarray:
    """(dim / 2,) frequencies from pi to pi max_freq / 2 radians per unit, for coordinates in [-1, 1].

    `spacing` is `linear` (rotary-embedding-torch) or `log` (rotary-embedding-tensorflow, timm).
    """
    check_dim(dim)
    if not max_freq >= 2:
        raise ValueError(f"max_freq must be >= 2, got {max_freq}.")
    if spacing == "linear":
        return np.pi * np.linspace(1.0, max_freq / 2, dim // 2)
    if spacing == "log":
        return np.pi * 2.0 ** np.linspace(0.0, np.log2(max_freq / 2), dim // 2)
    raise ValueError(f"pixel_spacing must be one of linear, log; got {spacing!r}.")


def rotary_dim(head_dim: int, fraction: float) -> int:
    """Number of rotated features in a partial rotation (GPT-NeoX, GPT-J, Phi): int(fraction head_dim)."""
    if not 0 < fraction <= 1:
        raise ValueError(f"the rotated fraction of a head must be in (0, 1], got {fraction}.")
    dim = int(fraction * head_dim)
    if dim < 2 or dim % 2:
        raise ValueError(
            f"the rotated part of a head must be even to form rotation pairs, "
            f"got {dim} of head_dim {head_dim} with fraction {fraction}."
        )
    return dim


def check_dim(dim: int) -> None:
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number to form rotation pairs, got {dim}.")


class Resolved(NamedTuple):
    """Values that follow from the arguments of a `RotaryEmbedding`.

    `initial` are (dim / 2,) radians per position before scaling, which multiplies them by `ratios`.
    """

    dim: int
    theta: float
    initial: np.ndarray
    ratios: np.ndarray
    attention_factor: float
    interpolate_factor: float


def resolve(options: Mapping[str, Any]) -> Resolved:
    """Checks the arguments of a `RotaryEmbedding` and computes its frequencies."""
    kind = options["freqs_for"] if options["custom_freqs"] is None else "custom"
    check_options(options, kind)
    scaling = dict(options["scaling"] or {"rope_type": "default"})
    dim, theta, interpolate_factor = options["dim"], options["theta"], options["interpolate_factor"]
    rope_theta = scaling.pop("rope_theta", None)
    if rope_theta is not None:
        if theta not in (DEFAULTS["theta"], rope_theta):
            raise ValueError(f"theta is {theta}, but scaling has rope_theta {rope_theta}. Give one of them.")
        theta = rope_theta
    if scaling_type(scaling) != "proportional":  # which reads partial_rotary_factor itself
        fraction = scaling.pop("partial_rotary_factor", None)
        dim = dim if fraction is None else rotary_dim(dim, fraction)
    if options["theta_rescale_factor"] != 1:
        scaling = {"rope_type": "ntk", "factor": options["theta_rescale_factor"]}
    initial = initial_frequencies(options, kind, dim, theta)
    # The ratio of a pair of frequency 0 is computed at a frequency close to 0.
    nonzero = np.where(initial == 0, 1e-30, initial)
    base = theta if kind == "lang" else None
    scaled = scale_frequencies(nonzero, scaling, theta=base, target_length=options["target_length"])
    ratios = scaled.frequencies / interpolate_factor / nonzero
    if scaling_type(scaling) == "linear":  # interpolation under another name, also of the distances of xPos
        interpolate_factor = scaling["factor"]
    if options["use_xpos"]:
        check_xpos(options["xpos_max_length"], options["xpos_scale_base"], interpolate_factor)
    return Resolved(dim, theta, initial, ratios, scaled.attention_factor, interpolate_factor)


def check_options(options: Mapping[str, Any], kind: str) -> None:
    """Raises ValueError for options that contradict each other or have no effect on `kind` frequencies."""
    is_scaled = options["scaling"] is not None and scaling_type(options["scaling"]) != "default"
    freqs_for = options["freqs_for"]
    if freqs_for not in ("lang", "pixel", "constant"):
        raise ValueError(f"freqs_for must be one of lang, pixel, constant; got {freqs_for!r}.")
    if kind == "custom" and freqs_for != "lang":
        raise ValueError(f"custom_freqs replaces freqs_for, got freqs_for={freqs_for!r} as well.")
    if options["use_xpos"] and freqs_for != "lang":
        raise ValueError(f"use_xpos needs freqs_for='lang', as xPos decays over tokens; got {freqs_for!r}.")
    read = READ_BY[kind] + (("xpos_scale_base", "xpos_max_length") if options["use_xpos"] else ())
    for key, default in DEFAULTS.items():
        if options[key] != default and key not in read:
            where = "without use_xpos" if key.startswith("xpos") else f"on {kind} frequencies"
            raise ValueError(f"{key} has no effect {where}, got {options[key]}. Leave it out.")
    for key in ("interpolate_factor", "theta_rescale_factor"):
        if not options[key] >= 1:
            raise ValueError(
                f"{key} must be >= 1, got {options[key]}. To extend a context of 256 to 512, use 2.0."
            )
        if options[key] != 1 and is_scaled:
            raise ValueError(f"{key} cannot be combined with scaling, got {options[key]}. Use one of them.")


def check_xpos(max_length: int, scale_base: float, interpolate_factor: float) -> None:
    """Raises ValueError if float32 cannot represent the scales of xPos for `max_length` positions."""
    if not 0 < scale_base < math.inf:
        raise ValueError(f"xpos_scale_base must be > 0 and finite, got {scale_base}.")
    limit = math.floor(XPOS_MAX_SPAN * scale_base * interpolate_factor)
    if not 0 < max_length <= limit:
        raise ValueError(
            f"xpos_max_length must be in [1, {limit}] with xpos_scale_base {scale_base}, got {max_length}: "
            "beyond, the scales leave the range of float32. A larger xpos_scale_base decays more slowly."
        )


def initial_frequencies(options: Mapping[str, Any], kind: str, dim: int, theta: float) -> np.ndarray:
    """(dim / 2,) frequencies before scaling."""
    if kind == "lang":
        return language_frequencies(dim, theta=theta)
    if kind == "pixel":
        return pixel_frequencies(dim, max_freq=options["max_freq"], spacing=options["pixel_spacing"])
    if kind == "constant":
        frequencies, source = np.ones(options["num_freqs"]), "num_freqs"
    else:
        frequencies, source = np.array(options["custom_freqs"], np.float64), "custom_freqs"
        if frequencies.ndim != 1 or not np.isfinite(frequencies).all():
            raise ValueError(f"custom_freqs needs a vector of finite numbers, got shape {frequencies.shape}.")
    if 2 * len(frequencies) != dim:
        raise ValueError(
            f"{source} must give dim / 2 frequencies, got {len(frequencies)} for dim {dim}. "
            f"Set dim={2 * len(frequencies)}, the number of features they rotate."
        )
    return frequencies
