"""What an evaluation by window costs: memory, and time."""

import math
import time

import numpy as np
import psutil
import tensorflow as tf

from data.window_batches import Targets, WindowBatches
from models.chunked import CHUNK, is_chunked
from models.transformer import TransformerLM
from runs.window_cases import Case, evaluator_of
from system.errors import RunError
from system.text import format_duration
from training.hardware import available_memory
from training.window_losses import WindowEvaluator

# Measured peaks on a CPU are 3 (bfloat16) to 9 bytes (float32 under XLA, ALiBi) for each score and each bias.
BYTES_PER_SCORE = 9
BYTES_PER_FEATURE = 8


def memory_of_batch(model: TransformerLM, *, window: int, batch_size: int) -> int:
    """Bytes, at most, that a batch of `window` tokens a row takes beside the weights."""
    config = model.config
    chunked = is_chunked(config.attention_kernel, window)
    columns = min(window, CHUNK) if chunked else window
    scores = batch_size * config.num_heads * window * columns
    biases = window * columns * (config.num_heads if config.position == "alibi" else 1)
    if model.document_separator is not None:
        biases *= batch_size
    features = batch_size * window * (4 * config.dim + 3 * config.mlp_dim + config.vocab_size)
    return BYTES_PER_SCORE * (scores + biases) + BYTES_PER_FEATURE * features


def fitting_batch_size(model: TransformerLM, *, window: int, tokens: int, memory: int) -> int:
    """Rows of `window` that make up `tokens`, or as many as fit in `memory` bytes; at least 1."""
    rows = max(1, tokens // window)
    while rows > 1 and memory_of_batch(model, window=window, batch_size=rows) > memory:
        rows -= 1
    return rows


def work_of(case: Case, batches: WindowBatches) -> float:
    """Floating-point operations of a batch: 2 for each weight and token, and those of attention."""
    model = case.run.model
    of_token = 2 * model.count_params() + 4 * case.window * model.config.dim * model.config.num_layers
    return float(batches.batch_size * case.window * of_token)


def batches_of(case: Case, targets: Targets) -> WindowBatches:
    return WindowBatches(targets, window=case.window, batch_size=batch_size_of(case))


def batch_size_of(case: Case) -> int:
    """Rows that hold as many tokens at a time as in training; RunError if not one row fits in memory."""
    model, window, config = case.run.model, case.window, case.run.config
    # The memory of a GPU is not known beforehand: there, the first batch shows whether it holds.
    memory = math.inf if tf.config.list_physical_devices("GPU") else available_memory()
    needed = memory_of_batch(model, window=window, batch_size=1)
    if needed > memory:
        raise RunError(
            f"a window of {window:,} may need {in_gb(needed)} of memory in {case.run.path}, but only "
            f"{in_gb(memory)} are free. Leave it out"
        )
    tokens = config.batch_size // config.accumulation_steps * case.run.trained_length
    return fitting_batch_size(model, window=window, tokens=tokens, memory=memory)


def cost_of(batches: dict[Case, WindowBatches]) -> str:
    """How long it will take, judged by a batch of each run at its longest window, and how much memory."""
    longest = {case.run: case for case in batches if case.scaling == "none"}
    seconds = sum(
        seconds_of_run(case, {other: batches[other] for other in batches if other.run is run})
        for run, case in longest.items()
    )
    memory = max(
        memory_of_batch(case.run.model, window=case.window, batch_size=of_case.batch_size)
        for case, of_case in batches.items()
    )
    in_use = psutil.Process().memory_info().rss
    return (
        f"this takes about {format_duration(seconds)} (min:s) and at most {in_gb(in_use + memory)} of memory"
    )


def seconds_of_run(timed: Case, batches: dict[Case, WindowBatches]) -> float:
    """Seconds for all cases of a run, from the first and the second batch of one of them."""
    evaluate, of_timed = evaluator_of(timed), batches[timed]
    first, second = (seconds_of(evaluate, of_timed[0]) for _ in range(2))
    work = sum(len(of_case) * work_of(case, of_case) for case, of_case in batches.items())
    return len(batches) * max(0.0, first - second) + second * work / work_of(timed, of_timed)


def seconds_of(evaluate: WindowEvaluator, batch: tuple[np.ndarray, np.ndarray]) -> float:
    start = time.perf_counter()
    evaluate(*batch)
    return time.perf_counter() - start


def in_gb(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
