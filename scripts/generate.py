"""Generates text with a trained language model: `python -m scripts.generate outputs/lm --prompt "def "`."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/generate.py`

from data.tokenizer import BYTES, TextStream, Tokenizer
from runs.arguments import ArgumentParser, add_step_option, positive_integer
from system.command import quiet_imports, run_command
from system.errors import RunError
from system.text import print_error, print_note, print_result

OVERFLOW_NOTES = {
    "slide": "generation continues from the second half of the context",
    "stop": "the text ends there",
}


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    with quiet_imports():
        from models.config import TransformerLMConfig
        from models.sampling import Sampler, SamplingOptions
        from runs.load import load_model, load_run_tokenizer

    model, config, _ = load_model(options.run_directory, of=TransformerLMConfig, step=options.step)
    tokenizer = load_run_tokenizer(options.run_directory, config)
    prompts = [tokenizer.encode(prompt) for prompt in options.prompt]
    try:
        sampling = SamplingOptions(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            overflow=options.overflow,
            stop_token=tokenizer.separator,
        )
        steps = Sampler(model, vocab_size=tokenizer.vocab_size).generate(prompts, options.length, sampling)
    except ValueError as error:
        raise RunError(str(error)) from error
    longest = max(map(len, prompts))
    if longest + options.length > config.context_length:
        print_note(
            f"{longest} tokens of prompt and {options.length} more exceed the context of "
            f"{config.context_length}; {OVERFLOW_NOTES[options.overflow]}."
        )
    print_texts(prompts, steps, tokenizer)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m scripts.generate", description=__doc__)
    parser.add_argument("run_directory", type=Path, help="run of a language model, such as outputs/lm")
    prompt = "text to continue; repeat the option for a batch of prompts"
    parser.add_argument("--prompt", action="append", required=True, help=prompt)
    length = "number of tokens to generate (default %(default)s)"
    parser.add_argument("--length", type=positive_integer, default=400, help=length)
    temperature = "divides the logits; 0 for greedy decoding (default %(default)s)"
    parser.add_argument("--temperature", type=float, default=0.8, help=temperature)
    parser.add_argument("--top-k", type=int, help="sample only from the k most probable tokens")
    top_p = "sample only from the most probable tokens whose total probability reaches this value"
    parser.add_argument("--top-p", type=float, help=top_p)
    parser.add_argument("--seed", type=int, default=0, help="random seed (default %(default)s)")
    overflow = "when the context is full, continue from its second half, or stop (default %(default)s)"
    parser.add_argument("--overflow", choices=OVERFLOW_NOTES, default="slide", help=overflow)
    add_step_option(parser)
    return parser.parse_args(arguments)


def print_texts(
    prompts: Sequence[Sequence[int]], steps: Iterator[Sequence[int]], tokenizer: Tokenizer = BYTES
) -> None:
    """Prints a single text while it is generated, or several when all are complete; then the speed.

    Args:
        prompts: tokens of each prompt.
        steps: (prompts,) tokens of each step; -1 in a row that has ended.
    """
    started = time.perf_counter()
    columns = print_stream(prompts[0], steps, tokenizer) if len(prompts) == 1 else list(steps)
    elapsed_seconds = time.perf_counter() - started
    if len(prompts) > 1:
        for row, prompt in enumerate(prompts):
            text = tokenizer.decode([*prompt, *(column[row] for column in columns)])
            print_result(f"--- {row + 1} ---\n{text}")
    count = sum(int(token) >= 0 for column in columns for token in column)
    speed = f"{count / elapsed_seconds:.0f} tokens/s"
    print_error(f"{count} tokens in {elapsed_seconds:.1f} s, {speed}, including compilation.")


def print_stream(
    prompt: Sequence[int], steps: Iterable[Sequence[int]], tokenizer: Tokenizer = BYTES
) -> list[Sequence[int]]:
    """Prints each character as soon as it is complete, and returns the steps."""
    stream = TextStream(tokenizer)
    print_result(stream.add(prompt), end="")
    columns = []
    for column in steps:
        columns.append(column)
        print_result(stream.add(column), end="")
    print_result(stream.add([], is_last=True))
    return columns


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
