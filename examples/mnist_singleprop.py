"""Trains with SingleProp, a regulariser (Boopathy et al., arXiv:2102.01208), and certifies the test set.

SingleProp proves nothing: the errors that are called verified come from bounds, after training.

    python examples/mnist_singleprop.py --data-dir ~/tensorflow_datasets

Writes run.json, checkpoints, weights.npz, results.json, results.csv, picture.png and classes.png to
--out. A run that was stopped goes on with --resume.
"""

import _run

if __name__ == "__main__":
    _run.script(__doc__, "mnist_small_single_prop")
