"""Trains a network of ParamRamps by CROWN-IBP (Lyu et al., arXiv:2104.00447), and certifies the test set.

    python examples/mnist_paramramp.py --data-dir ~/tensorflow_datasets

Writes run.json, checkpoints, weights.npz, results.json, results.csv, picture.png and classes.png to
--out. A run that was stopped goes on with --resume.
"""

import _run

if __name__ == "__main__":
    _run.script(__doc__, "mnist_small_ramp")
