"""Imports a model of the Llama family: `python -m scripts.import_hf FOLDER --name llama`.

FOLDER is a model of Hugging Face transformers on disk. The result is a run directory for every other command,
and for init_from of train.py. docs/huggingface.md has an example.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `python scripts/import_hf.py`

from system.command import quiet_imports, run_command
from system.errors import DataError
from system.text import print_result


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    if not (options.folder / "config.json").exists():  # answered before TensorFlow is imported
        raise DataError(
            f"{options.folder} is not a folder of a Hugging Face model: it has no config.json; "
            "see docs/huggingface.md"
        )
    with quiet_imports():
        from runs.imports import import_folder

    print_result(import_folder(options.folder, options.name, options.overrides))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.import_hf", description=__doc__)
    folder = "directory with config.json, model.safetensors and tokenizer.json"
    parser.add_argument("folder", type=Path, help=folder)
    parser.add_argument("--name", required=True, help="name of the run")
    overrides = "keys of train.py, such as data=text_files data.path='docs/**/*.md'"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=overrides)
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
