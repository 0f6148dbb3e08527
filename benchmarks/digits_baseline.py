"""What a support vector machine reaches on the split of `data=digits`."""

from sklearn.svm import SVC

from data.config import DigitsConfig
from data.images import ImageSet, load_images


def main() -> None:
    print(f"SVC, RBF kernel: accuracy {accuracy(load_images(DigitsConfig())):.2%} held out")


def accuracy(images: ImageSet) -> float:
    """Of scikit-learn's classifier with its own defaults, on pixels as they are."""
    train, held_out = (
        (part.images.reshape(len(part.labels), -1), part.labels) for part in (images.train, images.validation)
    )
    return SVC().fit(*train).score(*held_out)


if __name__ == "__main__":
    main()
