"""Accuracy of a support vector machine on `data=digits`: `python -m benchmarks.digits_baseline`."""

from sklearn.svm import SVC

from data.config import DigitsConfig
from data.images import load_images
from system.text import format_percent, print_line


def main() -> None:
    images = load_images(DigitsConfig())
    train, held_out = (
        (part.images.reshape(len(part.labels), -1), part.labels) for part in (images.train, images.validation)
    )
    accuracy = SVC().fit(*train).score(*held_out)  # scikit-learn's default options, on raw pixels
    print_line(f"SVC, RBF kernel: accuracy {format_percent(accuracy)} held out")


if __name__ == "__main__":
    main()
