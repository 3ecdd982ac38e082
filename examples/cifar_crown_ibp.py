"""Trains a certified classifier by CROWN-IBP, and certifies the test set.

    python examples/cifar_crown_ibp.py                      # what fits this machine
    python examples/cifar_crown_ibp.py --preset smoke       # everything, in under a minute
    python examples/cifar_crown_ibp.py --preset cifar_8 --data-dir ~/tensorflow_datasets

Writes run.json, checkpoints, weights.npz, results.json, results.csv, picture.png and classes.png to
--out. A run that was stopped goes on with --resume.
"""

import _run
from _presets import default_preset

if __name__ == "__main__":
    _run.script(__doc__, default_preset())
