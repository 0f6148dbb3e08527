"""Writes text with a trained language model: `python -m scripts.generate outputs/lm --prompt "def "`."""

import argparse
import codecs
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data.tokens import VOCAB_SIZE
from runs.devices import import_tensorflow
from system.command import run_command


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    import_tensorflow()

    from data.tokens import SEPARATOR, encode
    from models.config import TransformerLMConfig
    from models.sampling import Sampler, SamplingOptions
    from runs.load import load_model
    from system.errors import RunError

    prompts = [encode(prompt) for prompt in options.prompt]
    model, config, _ = load_model(options.run_directory, of=TransformerLMConfig)
    try:
        sampling = SamplingOptions(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            overflow=options.overflow,
            stop_token=SEPARATOR,
        )
        steps = Sampler(model).generate(prompts, options.length, sampling)
    except ValueError as error:
        raise RunError(str(error)) from error
    warn_of_overflow(prompts, options, config.context_length)
    started, made = time.perf_counter(), []
    steps = kept(steps, made)
    if len(prompts) == 1:
        stream(prompts[0], steps)
    else:
        print_all(prompts, list(steps))
    tell_speed(made, time.perf_counter() - started)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.generate", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="of a trained language model: outputs/lm")
    parser.add_argument(
        "--prompt", action="append", required=True, help="text to continue; more than one makes a batch"
    )
    parser.add_argument("--length", type=positive, default=400, help="bytes to add (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default %(default)s)")
    parser.add_argument("--top-k", type=int, help="choose among the k likeliest bytes only")
    parser.add_argument(
        "--top-p", type=float, help="choose among the likeliest bytes that reach this probability"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same text")
    parser.add_argument(
        "--overflow",
        choices=("slide", "stop"),
        default="slide",
        help="when the context is full: continue from its later half, or stop (default %(default)s)",
    )
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def warn_of_overflow(prompts, options, context_length: int) -> None:
    longest = max(map(len, prompts))
    if longest + options.length <= context_length:
        return
    what = {
        "slide": "past it, the text goes on from the later half of the context",
        "stop": "the text ends there",
    }[options.overflow]
    print(
        f"note: {longest} bytes of prompt and {options.length} more exceed the context of {context_length}; "
        f"{what}.",
        file=sys.stderr,
    )


def kept(steps, made: list) -> Iterator:
    """Passes the steps on, and keeps them in `made`."""
    for step in steps:
        made.append(step)
        yield step


def tell_speed(made, elapsed_seconds: float) -> None:
    count = sum(int(token) >= 0 for step in made for token in step)
    pace = f"{count / elapsed_seconds:.0f} a second"
    print(f"{count} bytes in {elapsed_seconds:.1f} s, {pace}; compiling included.", file=sys.stderr)


def stream(prompt, steps) -> None:
    """Prints one text as it is made; a character when its last byte is there."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    print(decoder.decode(bytes(prompt)), end="", flush=True)
    for (token,) in steps:
        print(decoder.decode(as_bytes([token])), end="", flush=True)
    print(decoder.decode(b"", final=True), flush=True)


def print_all(prompts, steps) -> None:
    for row, prompt in enumerate(prompts):
        text = bytes(prompt) + as_bytes(step[row] for step in steps)
        print(f"--- {row + 1} ---\n{text.decode(errors='replace')}")


def as_bytes(tokens) -> bytes:
    """Without what is no byte: the end of a row, and the tokens of a larger vocabulary."""
    return bytes(int(token) for token in tokens if 0 <= token < VOCAB_SIZE)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
