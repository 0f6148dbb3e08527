"""Samples of a language model during training."""

from types import SimpleNamespace

import pytest

from data.tokenizer import BYTES
from runs.text_task import choose_prompt, sample_text

FUNCTION = 'def first(a):\n    """Returns it."""'


def held_out(*documents):
    return BYTES.encode("".join(f"\0{document}" for document in documents) + "\0")


@pytest.mark.parametrize(
    ("documents", "prompt"),
    [
        (["ds end here\n\n    def first(a, b):\n        return a"], "    def first(a, b):"),
        (["x = 1\n", "tail\nThe second document is long enough"], "tail\nThe second document"),
        (["Words without a line that has an end"], "Words without a line"),
        (["ab\nüüüüüüüüüüüüüüüü"], "ü" * 12),
        (["one"], "one"),
        (["import a\n", f"import b\n\n{FUNCTION}\n    return a"], FUNCTION),
    ],
)
def test_a_prompt_is_a_function_or_whole_words_from_the_start_of_a_line(documents, prompt):
    max_length = len(FUNCTION) + 1 if prompt == FUNCTION else 25
    assert choose_prompt(held_out(*documents), max_length=max_length) == prompt


def test_a_sample_marks_its_prompt():
    def generate(prompts, *_):
        return ([token] for token in [*prompts[0][:2], 7, -1])

    sampler = SimpleNamespace(capacity=8, generate=generate)
    text = sample_text(sampler, held_out("a\nbc def ghi"), seed=0)
    assert text == r"«bc def»bc\x07"
    sampler.capacity = 3
    assert sample_text(sampler, held_out("\U0001f600"), seed=0).startswith(r"«\x00»")


def test_a_sample_begins_with_the_prefix_of_the_tokenizer(monkeypatch):
    monkeypatch.setattr(BYTES, "prefix", [1])
    prompts = []
    sampler = SimpleNamespace(capacity=8, generate=lambda batch, *_: prompts.extend(batch) or iter([]))
    assert sample_text(sampler, held_out("a\nbc def ghi"), seed=0) == "«bc def»"
    assert prompts == [[1, *b"bc def"]]
