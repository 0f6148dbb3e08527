"""Generates text with a trained language model: `python -m scripts.generate outputs/lm --prompt "def "`.

Without a prompt, it asks for prompts on the terminal until Ctrl-D.
"""

import argparse
import contextlib
import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/generate.py`

from data.tokenizer import TextStream, Tokenizer
from runs.arguments import add_step_option, positive_integer
from system.command import quiet_imports, run_command
from system.errors import RunError
from system.text import print_error, print_note, print_result

if TYPE_CHECKING:
    from models.sampling import Sampler


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    texts = read_prompts(options)
    if not texts and not sys.stdin.isatty():
        raise RunError("no prompt; use --prompt TEXT, --prompt-file FILE, or --prompt - for standard input")
    with quiet_imports():
        from models.config import TransformerLMConfig
        from models.sampling import Sampler
        from runs.load import load_run

    run = load_run(options.run_directory, of=TransformerLMConfig, step=options.step)
    sampler = Sampler(run.model, vocab_size=run.tokenizer.vocab_size)
    if texts:
        generate(sampler, run.tokenizer, texts, options)
        return
    for text in ask_for_prompts():
        try:
            generate(sampler, run.tokenizer, [text], options)
        except RunError as error:
            print_error(f"error: {error}")
        except KeyboardInterrupt:
            print_result("")


def generate(sampler: "Sampler", tokenizer: Tokenizer, texts: list[str], options: argparse.Namespace) -> None:
    """Continues each text `num_samples` times and prints the results."""
    from models.sampling import SamplingOptions

    seed = random.randrange(2**31) if options.seed is None else options.seed
    prompts = [[*tokenizer.prefix, *tokenizer.encode(text)] for text in texts]
    prompts = [prompt for prompt in prompts for _ in range(options.num_samples)]
    choice = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "overflow")}
    try:
        sampling = SamplingOptions(**choice, seed=seed, stop_tokens=tokenizer.stop_tokens)
        steps = sampler.generate(prompts, options.length, sampling)
    except ValueError as error:
        raise RunError(str(error)) from error
    longest = max(map(len, prompts))
    if longest + options.length > sampler.capacity:
        sizes = f"{longest} tokens of prompt and {options.length} more"
        print_note(f"{sizes} exceed the context of {sampler.capacity}: --overflow {options.overflow}.")
    print_texts(prompts, steps, tokenizer, seed=seed, as_json=options.json)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.generate", description=__doc__)
    add, binary = parser.add_argument, argparse.FileType("rb")
    add("run_directory", type=Path, help="run of a language model, such as outputs/lm")
    prompt = "text to continue, or - for standard input; --prompt=TEXT if it begins with a dash; repeatable"
    add("--prompt", action="append", default=[], help=prompt)
    file = "file to continue, without its last line break; may be repeated"
    add("--prompt-file", type=binary, action="append", default=[], metavar="FILE", help=file)
    samples = "number of texts for each prompt (default %(default)s)"
    add("--num-samples", type=positive_integer, default=1, metavar="N", help=samples)
    length = "number of tokens to generate (default %(default)s)"
    add("--length", type=positive_integer, default=400, help=length)
    temperature = "divides the logits; 0 for greedy decoding (default %(default)s)"
    add("--temperature", type=float, default=0.8, help=temperature)
    add("--top-k", type=int, help="sample only from the k most probable tokens")
    add("--top-p", type=float, help="sample only from the most probable tokens of this total probability")
    add("--seed", type=int, help="random seed (default random); it is printed")
    overflow = "when the context is full, continue from its second half, or stop (default %(default)s)"
    add("--overflow", choices=("slide", "stop"), default="slide", help=overflow)
    add_step_option(parser)
    add("--json", action="store_true", help="print a list of prompts and texts as JSON")
    return parser.parse_args(arguments)


def read_prompts(options: argparse.Namespace) -> list[str]:
    """Prompts of the command line, of standard input and of files; other bytes than UTF-8 are kept."""
    files = [sys.stdin.buffer for text in options.prompt if text == "-"] + options.prompt_file
    contents = [file.read().decode(errors="surrogateescape").removesuffix("\n") for file in files]
    return [text for text in options.prompt if text != "-"] + contents


def ask_for_prompts() -> Iterator[str]:
    """Lines that are typed on the terminal, until Ctrl-D."""
    import readline  # noqa: F401, gives `input` a history

    print_error("type a prompt; Ctrl-C interrupts a text, Ctrl-D ends")
    with contextlib.suppress(EOFError):
        while True:
            if text := input("> "):
                yield text
    print_result("")


def print_texts(
    prompts: Sequence[Sequence[int]],
    steps: Iterable[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    seed: int,
    as_json: bool = False,
) -> None:
    """Prints a single text while it is generated, several or JSON when all are complete; then the seed.

    `steps` are (prompts,) tokens each, -1 in a row that has ended.
    """
    stream, columns = TextStream(tokenizer), []
    is_streamed = len(prompts) == 1 and not as_json
    if is_streamed:
        print_result(stream.add(prompts[0]), end="")
    for column in steps:
        columns.append(column)
        if is_streamed:
            print_result(stream.add(column), end="")
    starts = [tokenizer.decode(prompt) for prompt in prompts]
    texts = [tokenizer.decode([*prompt, *(step[i] for step in columns)]) for i, prompt in enumerate(prompts)]
    if is_streamed:
        print_result(stream.add([], is_last=True))
    elif as_json:
        seeds = (seed + prompts[:i].count(prompt) for i, prompt in enumerate(prompts))
        rows = [
            {"prompt": start, "text": text.removeprefix(start), "seed": row_seed}
            for start, text, row_seed in zip(starts, texts, seeds, strict=True)
        ]
        print_result(json.dumps(rows, indent=1))
    else:
        print_result("\n".join(f"--- {number} ---\n{text}" for number, text in enumerate(texts, 1)))
    count = sum(int(token) >= 0 for column in columns for token in column)
    print_error(f"seed {seed}: {count:,} tokens")


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
