"""Accuracy of a support vector machine on `data=digits`: `python -m benchmarks.digits_baseline`."""

from sklearn.svm import SVC

from data.config import DigitsConfig
from data.images import ImageSet, load_images


def main() -> None:
    print(f"SVC, RBF kernel: accuracy {accuracy(load_images(DigitsConfig())):.2%} held out")


def accuracy(images: ImageSet) -> float:
    """Held-out accuracy of scikit-learn's classifier with its default options, on raw pixels."""
    train, held_out = (
        (part.images.reshape(len(part.labels), -1), part.labels) for part in (images.train, images.validation)
    )
    return SVC().fit(*train).score(*held_out)


if __name__ == "__main__":
    main()
