"""Numbers worked out by hand or by an independent implementation, in float64 to 1e-5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import precision

import jaxbound as jb

W1, b1 = np.array([[1, -1], [0.5, 1], [-1, 0.5]]), np.array([0.1, -0.4, 0.2])
W2, b2 = np.array([[1, -0.5, 0.5], [-1, 1, 1], [0.5, 0.5, -1]]), np.array([0, 0.1, -0.3])
W3, b3 = np.array([[1, -1, 0.5], [-0.5, 1, 1]]), np.array([0.05, -0.05])
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "ramp": lambda z: jb.param_ramp(z, r=0.25, eta=0.01),
}


def hidden(x, act):
    return W2 @ act(W1 @ x + b1) + b2


def net(x, act):
    return W3 @ act(hidden(x, act)) + b3


FUNCTIONS = {
    "hidden": hidden,
    "out": net,
    "margin": lambda x, act: jb.margins(net(x, act), 0),
}

TABLE = [  # activation, relaxation, method, what, lower, upper
    ("relu", None, jb.ibp, "hidden", (-0.3, -0.6, -0.4), (0.75, 0.8, 0.35)),
    ("relu", None, jb.ibp, "out", (-0.75, -0.425), (0.975, 1.1)),
    ("relu", None, jb.ibp, "margin", (-1.675,), (1.225,)),
    ("relu", "tight", jb.lbp, "hidden", (-0.3, -0.6, -0.4), (0.7, 0.733333, 0.175)),
    ("relu", "tight", jb.lbp, "out", (-0.683333, -0.4), (0.833696, 0.858333)),
    ("relu", "tight", jb.lbp, "margin", (-1.454167,), (1.15,)),
    ("relu", "tight", jb.crown_ibp, "out", (-0.711905, -0.407143), (0.869286, 0.883016)),
    ("relu", "tight", jb.crown_ibp, "margin", (-1.509365,), (1.171429,)),
    ("relu", "tight", jb.crown_lbp, "out", (-0.683333, -0.4), (0.818478, 0.794928)),
    ("relu", "tight", jb.crown_lbp, "margin", (-1.422464,), (1.15,)),
    ("relu", "tight", jb.crown, "hidden", (-0.3, -0.6, -0.4), (0.7, 0.733333, 0.175)),
    ("relu", "tight", jb.crown, "out", (-0.683333, -0.4), (0.818478, 0.794928)),
    ("relu", "tight", jb.crown, "margin", (-1.422464,), (1.15,)),
    ("relu", "adaptive", jb.lbp, "hidden", (-0.3, -0.4, -0.25), (0.6, 0.7, 0.175)),
    ("relu", "adaptive", jb.lbp, "out", (-0.95, -0.75), (1.132353, 0.861765)),
    ("relu", "adaptive", jb.lbp, "margin", (-1.780882,), (1.8,)),
    ("relu", "adaptive", jb.crown_ibp, "out", (-0.942857, -0.771429), (1.22119, 0.902381)),
    ("relu", "adaptive", jb.crown_ibp, "margin", (-1.795714,), (1.864286,)),
    ("relu", "adaptive", jb.crown_lbp, "out", (-0.9, -0.75), (1.132353, 0.77754)),
    ("relu", "adaptive", jb.crown_lbp, "margin", (-1.675,), (1.8,)),
    ("relu", "adaptive", jb.crown, "hidden", (-0.3, -0.4, -0.25), (0.6, 0.7, 0.175)),
    ("relu", "adaptive", jb.crown, "out", (-0.9, -0.75), (1.132353, 0.77754)),
    ("relu", "adaptive", jb.crown, "margin", (-1.675,), (1.8,)),
    ("ramp", None, jb.ibp, "hidden", (-0.13025, -0.1595, -0.4005), (0.3045, 0.4545, -0.041)),
    ("ramp", None, jb.ibp, "out", (-0.20535, -0.180873), (0.301935, 0.202286)),
    ("ramp", "tight", jb.lbp, "out", (-0.20528, -0.180622), (0.3016, 0.202136)),
    ("ramp", "tight", jb.crown, "out", (-0.204166, -0.178418), (0.300751, 0.199914)),
    ("ramp", "adaptive", jb.crown, "out", (-0.44963, -0.255112), (0.377505, 0.395661)),
]


@pytest.mark.parametrize("act, kind, method, what, lower, upper", TABLE)
def test_network(act, kind, method, what, lower, upper):
    options = {} if kind is None else {"relaxation": kind, "published": True}
    with precision("float64"):
        box = jb.linf_ball(jnp.array([0.6, 0.4]), 0.2)
        bounds = method(lambda x: FUNCTIONS[what](x, ACTIVATIONS[act]), box, **options)
    np.testing.assert_allclose(bounds.lower, lower, atol=1e-5)
    np.testing.assert_allclose(bounds.upper, upper, atol=1e-5)


# Per interval: lower slope and intercept, upper slope and intercept.
INTERVALS = [(-1, 2), (-2, 0.5), (0.5, 2), (-3, -1), (-1, 1)]
S_SHAPED = {
    jax.nn.sigmoid: [
        (0.204055, 0.472688, 0.235681, 0.504623),
        (0.246181, 0.499369, 0.201303, 0.521808),
        (0.172225, 0.536347, 0.173105, 0.560919),
        (0.104994, 0.32919, 0.110758, 0.379699),
        (0.235681, 0.495377, 0.235681, 0.504623),
    ],
    jnp.tanh: [
        (0.581572, -0.199119, 0.816219, 0.054625),
        (0.942725, -0.009245, 0.570458, 0.176888),
        (0.334607, 0.294814, 0.280415, 0.497765),
        (0.070651, -0.822726, 0.11673, -0.644864),
        (0.816219, -0.054625, 0.816219, 0.054625),
    ],
    jnp.arctan: [
        (0.636603, -0.166058, 0.833279, 0.047881),
        (0.944855, -0.00878, 0.628319, 0.149488),
        (0.429001, 0.249147, 0.390244, 0.408251),
        (0.2, -0.707149, 0.231824, -0.553574),
        (0.833279, -0.047881, 0.833279, 0.047881),
    ],
}


@pytest.mark.parametrize("fn, lines", S_SHAPED.items())
def test_s_shaped_lines(fn, lines):
    lower, upper = np.array(INTERVALS, float).T
    with precision("float64"):
        found = jb.linear_bounds(fn, jb.Interval(jnp.asarray(lower), jnp.asarray(upper)))
    slopes = [np.diagonal(found.lower_coeffs[0]), np.diagonal(found.upper_coeffs[0])]
    columns = [slopes[0], found.lower_offset, slopes[1], found.upper_offset]
    np.testing.assert_allclose(np.stack(columns, axis=1), lines, atol=1e-5)


# A line may differ on the closed side of a tie: slope 1 only where u > -l (then CROWN's area rule).
def test_tie_of_the_adaptive_slope():
    found = jb.linear_bounds(jax.nn.relu, jb.linf_ball(jnp.zeros(1), 1.0))
    assert found.lower_coeffs[0].item() == 0.0
