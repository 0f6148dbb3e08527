"""Training loop, with a fake step."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from data.batches import batch_dataset
from system.errors import DataError, DivergedError
from training.config import TrainingConfig
from training.loop import NO_BAD_STEPS, read, train
from training.step import StepResult


class Run:
    """Records calls of the loop; `at_step` and `at_save` map a step to a function called there."""

    def __init__(self, **config):
        cadences = dict.fromkeys(("log_every", "eval_every", "sample_every", "checkpoint_every"), 1000)
        self.config = TrainingConfig(**cadences | {"num_steps": 10} | config)
        self.at_step, self.at_save = {}, {}
        self.not_finite = set()
        self.steps, self.rows, self.saved, self.num_timed = [], {}, [], 0
        self.facts, self.lines = {}, []

    def train_step(self, step, inputs, targets):
        number = int(step)
        assert (inputs, targets) == (f"inputs {number}", f"targets {number}")
        self.steps.append(number)
        self.at_step.get(number, lambda: None)()
        finite = number not in self.not_finite
        loss = 5.0 - number if finite else float("nan")
        return StepResult(*map(tf.constant, (loss, 1.5, 0.25, finite)))

    def step_took(self, seconds, loss):
        assert seconds >= 0
        self.num_timed += 1

    def write(self, step, metrics):
        assert step not in self.rows
        self.rows[step] = metrics

    def save(self, step, facts):
        self.facts[step] = facts
        self.saved.append(step)
        self.at_save.get(step, lambda: None)()

    def say(self, text):
        self.lines.append(text)

    def train(self, *, start_step=0, counts=NO_BAD_STEPS, agree=int):
        return train(
            self.train_step,
            [(f"inputs {step}", f"targets {step}") for step in range(start_step, self.config.num_steps)],
            config=self.config,
            start_step=start_step,
            bad_steps=counts,
            log=self,
            validate=lambda: {"validation_loss": 3.5},
            sample=lambda: {"sample": "text"},
            save=self.save,
            agree=agree,
        )

    def steps_with(self, name):
        return [step for step, metrics in self.rows.items() if name in metrics]


def test_logging_evaluation_samples_and_saves_have_their_own_intervals():
    run = Run(num_steps=24, log_every=5, eval_every=8, sample_every=12, checkpoint_every=10)
    assert run.train() == (24, 0)
    assert run.steps == list(range(24))
    assert run.num_timed == 24
    assert run.steps_with("loss") == [1, 5, 10, 15, 20, 24]
    assert run.steps_with("validation_loss") == [8, 16]  # the last step is evaluated on all data
    assert run.steps_with("sample") == [12]
    assert run.saved == [10, 20, 24]
    assert run.rows[5] == {"loss": 1.0, "gradient_norm": 1.5, "learning_rate": 0.25}
    assert run.rows[8] == {"validation_loss": 3.5}
    run = Run(eval_every=4, checkpoint_every=2)
    run.train()
    losses = {step: facts["validation_loss"] for step, facts in run.facts.items()}
    assert losses == {2: None, 4: 3.5, 6: None, 8: 3.5, 10: None}


def test_a_resumed_run_does_the_same_at_the_same_steps():
    whole = Run(log_every=3, eval_every=4, checkpoint_every=5)
    whole.train()
    rest = Run(log_every=3, eval_every=4, checkpoint_every=5)
    assert rest.train(start_step=5) == (10, 0)
    assert rest.steps == [5, 6, 7, 8, 9]
    assert rest.rows == {step: metrics for step, metrics in whole.rows.items() if step > 5}
    assert rest.saved == [10]
    completed = Run()
    assert completed.train(start_step=10) == (10, 0)
    assert (completed.steps, completed.rows, completed.saved) == ([], {}, [])


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    run = Run(checkpoint_every=1, log_every=1, eval_every=4, max_bad_steps=2)
    run.not_finite = {3, 6}
    assert run.train() == (10, 0)
    assert run.rows[4] == {"skipped_steps": 1, "validation_loss": 3.5}
    assert run.rows[7] == {"skipped_steps": 2}
    assert run.steps_with("loss") == [1, 2, 3, 5, 6, 8, 9, 10]
    assert run.lines == [f"step {step}: loss nan, gradient norm 1.5; skipped" for step in (4, 7)]
    assert run.saved == [1, 2, 3, 5, 6, 8, 9, 10]
    assert run.facts[10]["bad_steps"] == {"in_a_row": 0, "in_all": 2}


def test_too_many_bad_steps_in_a_row_end_a_run():
    run = Run(checkpoint_every=2, max_bad_steps=3)
    run.not_finite = {1, 3, 4, 6, 7, 8}
    message = "step 9: loss nan, gradient norm 1.5; 3 steps in a row"
    with pytest.raises(DivergedError, match=message) as caught:
        run.train()
    assert caught.value.good_step == 6
    assert run.saved == [3, 6]  # the saves of steps 2 and 4 waited for a good step
    assert run.steps[-1] == 8


def test_a_run_stopped_during_bad_steps_continues_to_count():
    run = Run(max_bad_steps=4)
    run.not_finite = {3, 5, 6, 7, 8}
    run.at_step[6] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run.train() == (7, 143)
    assert run.facts[7] == {"validation_loss": None, "bad_steps": {"in_a_row": 2, "in_all": 3}}
    rest = Run(max_bad_steps=4)
    rest.not_finite = run.not_finite
    with pytest.raises(DivergedError, match=r"step 9: .* 4 steps in a row") as caught:
        rest.train(start_step=7, counts=run.facts[7]["bad_steps"])
    assert caught.value.good_step == 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("step", "saved"), [(0, [1]), (4, [5]), (6, [5, 7]), (9, [5, 10])])
def test_a_signal_ends_the_step_and_saves(number, code, step, saved):
    run = Run(checkpoint_every=5)
    run.at_step[step] = lambda: os.kill(os.getpid(), number)
    assert run.train() == (step + 1, code)
    assert run.saved == saved
    assert run.steps[-1] == step


def test_a_run_stops_when_another_worker_is_stopped():
    codes = iter([0, 0, 143, 143])
    run = Run()
    assert run.train(agree=lambda code: max(code, next(codes))) == (3, 143)
    assert run.saved == [3]


@pytest.mark.parametrize(("step", "done"), [(5, 6), (10, 10)])
def test_a_signal_while_saving_ends_the_next_step_or_the_run(step, done):
    run = Run(checkpoint_every=5)
    run.at_save[step] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run.train() == (done, 143)
    assert run.saved == [5, done]


def test_a_run_out_of_time_does_at_least_one_step():
    run = Run(num_steps=2, max_minutes=1e-9)
    assert run.train() == (1, 75)
    assert run.train(start_step=1) == (2, 75)
    assert run.train(start_step=2) == (2, 0)
    assert run.saved == [1, 2]


def test_an_error_of_the_data_is_raised_as_such():
    def batch(index):
        if index == 1:
            raise DataError("the file was cut")
        return (np.zeros(2, np.int32),)

    with pytest.raises(DataError, match=r"^the file was cut$"):
        list(read(batch_dataset(batch, start_step=0, num_steps=3)))
