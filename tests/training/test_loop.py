"""The loop, with a step that only counts."""

import os
import signal

import pytest
import tensorflow as tf

from training.config import TrainingConfig
from training.errors import DivergedError
from training.loop import train
from training.step import StepResult


class Run:
    """Records what the loop does; `at_step` and `at_save` map a number to what happens there."""

    def __init__(self, **config):
        cadences = dict.fromkeys(("log_every", "eval_every", "sample_every", "checkpoint_every"), 1000)
        self.config = TrainingConfig(**cadences | {"num_steps": 10} | config)
        self.at_step, self.at_save = {}, {}
        self.not_finite = set()
        self.steps, self.rows, self.saved, self.num_timed = [], {}, [], 0
        self.facts = {}

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

    def go(self, *, start_step=0):
        return train(
            self.train_step,
            [(f"inputs {step}", f"targets {step}") for step in range(start_step, self.config.num_steps)],
            config=self.config,
            start_step=start_step,
            log=self,
            validate=lambda: {"validation_loss": 3.5},
            sample=lambda: {"sample": "text"},
            save=self.save,
        )

    def steps_with(self, name):
        return [step for step, metrics in self.rows.items() if name in metrics]


def test_each_thing_happens_at_its_own_cadence():
    run = Run(num_steps=24, log_every=5, eval_every=8, sample_every=12, checkpoint_every=10)
    assert run.go() == (24, False)
    assert run.steps == list(range(24))
    assert run.num_timed == 24
    assert run.steps_with("loss") == [1, 5, 10, 15, 20, 24]
    assert run.steps_with("validation_loss") == [8, 16]  # the whole split comes after the last step
    assert run.steps_with("sample") == [12]
    assert run.saved == [10, 20, 24]
    assert run.rows[5] == {"loss": 1.0, "gradient_norm": 1.5, "learning_rate": 0.25}
    assert run.rows[8] == {"validation_loss": 3.5}


def test_a_checkpoint_records_the_validation_loss_of_its_step():
    run = Run(eval_every=4, checkpoint_every=2)
    run.go()
    assert run.facts == {
        step: {"validation_loss": 3.5} if step in (4, 8) else {} for step in (2, 4, 6, 8, 10)
    }


def test_a_resumed_run_does_what_is_left_at_the_same_steps():
    whole = Run(log_every=3, eval_every=4, checkpoint_every=5)
    whole.go()
    rest = Run(log_every=3, eval_every=4, checkpoint_every=5)
    assert rest.go(start_step=5) == (10, False)
    assert rest.steps == [5, 6, 7, 8, 9]
    assert rest.rows == {step: metrics for step, metrics in whole.rows.items() if step > 5}
    assert rest.saved == [10]


def test_a_run_that_is_done_does_nothing():
    run = Run()
    assert run.go(start_step=10) == (10, False)
    assert (run.steps, run.rows, run.saved) == ([], {}, [])


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved():
    run = Run(checkpoint_every=1, log_every=1)
    run.not_finite = {3}
    with pytest.raises(DivergedError, match=r"step 4: loss nan, .* as after step 3"):
        run.go()
    assert run.saved == [1, 2, 3]
    assert 4 not in run.rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("step", "saved"), [(0, [1]), (4, [5]), (6, [5, 7])])
def test_a_signal_ends_the_step_and_saves(number, step, saved):
    run = Run(checkpoint_every=5)
    run.at_step[step] = lambda: os.kill(os.getpid(), number)
    assert run.go() == (step + 1, True)
    assert run.saved == saved
    assert run.steps[-1] == step


def test_a_signal_in_the_last_step_is_heard():
    run = Run()
    run.at_step[9] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert run.go() == (10, True)
    assert run.saved == [10]


def test_a_signal_while_saving_ends_the_next_step():
    run = Run(checkpoint_every=5)
    run.at_save[5] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run.go() == (6, True)
    assert run.saved == [5, 6]


def test_a_signal_while_saving_the_last_step_is_heard():
    run = Run()
    run.at_save[10] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert run.go() == (10, True)


def test_a_second_ctrl_c_stops_in_the_step():
    run = Run()

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run.at_step[4] = twice
    with pytest.raises(KeyboardInterrupt):
        run.go()
    assert run.saved == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
