"""The summary of an image run."""

from dataclasses import replace

import numpy as np

from runs.image_task import NUM_MISTAKES, ImageTask
from training.run_log import RunDirectory


def test_the_summary_lists_the_most_confident_mistakes(untrained):
    path, task, model = untrained
    split = task.images.validation
    names = [f"digits/{index}.png" for index in range(len(split.labels))]
    named = ImageTask(task.config, replace(task.images, validation=replace(split, names=names)))
    summary, _ = named.finish(RunDirectory(path), model)

    pixels = (np.float32(split.images) / 255 - task.images.mean) / task.images.deviation
    logits = model(pixels).numpy().astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    guesses, surely = probabilities.argmax(axis=1), probabilities.max(axis=1)
    expected = np.sort(surely[guesses != split.labels])[::-1][:NUM_MISTAKES]
    assert len(expected) == NUM_MISTAKES
    # float32 logits of a few units
    found = [mistake["probability"] for mistake in summary["mistakes"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for mistake in summary["mistakes"]:
        index = mistake["index"]
        assert (mistake["class"], mistake["predicted"]) == (str(split.labels[index]), str(guesses[index]))
        assert mistake["class"] != mistake["predicted"]
        assert mistake["name"] == names[index]


def test_a_mistake_is_drawn_once(untrained, monkeypatch):
    path, task, model = untrained
    summary, _ = task.finish(RunDirectory(path), model)
    task.examples = np.array([mistake["index"] for mistake in summary["mistakes"][:2]])
    drawn = []
    monkeypatch.setattr("runs.image_task.plot_predictions", lambda path, groups: drawn.append(groups))
    task.finish(RunDirectory(path), model)
    images = [image.tobytes() for group in drawn[0].values() for image, *_ in group]
    assert len(set(images)) == len(images) == NUM_MISTAKES
