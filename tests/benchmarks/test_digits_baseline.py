import pytest
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from benchmarks import digits_baseline


def test_the_baseline_equals_scikit_learn_on_its_own_digits(capsys):
    digits = datasets.load_digits()
    train, held_out, labels, held_out_labels = train_test_split(
        digits.data, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    expected = SVC().fit(train, labels).score(held_out, held_out_labels)
    digits_baseline.main()
    line = capsys.readouterr().out
    assert line.startswith("SVC, RBF kernel: accuracy ")
    accuracy = float(line.split()[4].rstrip("%")) / 100
    assert accuracy == pytest.approx(expected, abs=1.5 / 360)  # pixels in 16 steps are stored in 255
