"""Trains a certified classifier by fast IBP (Shi et al., arXiv:2103.17268), and certifies the test set.

    python examples/cifar_fast_ibp.py                                  # a small network, on a CPU
    python examples/cifar_fast_ibp.py --preset cifar_8_cnn7            # the paper's CNN-7, on a GPU

Writes run.json, checkpoints, weights.npz, results.json, results.csv, picture.png and classes.png to
--out. A run that was stopped goes on with --resume.
"""

import _run
from _presets import fast_preset

if __name__ == "__main__":
    _run.script(__doc__, fast_preset())
