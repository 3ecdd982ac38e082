# ruff: noqa: E501 -- a case is one line
"""Complex values on the way: Fourier transforms, products, absolute values; by their real and imaginary parts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpreter import by_numpy, each_by_numpy
from jax import lax
from oracle import assert_contains, box, precision, samples, values

import jaxbound as jb

fft = jnp.fft


def parts(fn):
    """Both parts of a complex function's value."""
    return lambda x: (lambda z: jnp.stack([z.real, z.imag]))(fn(x))


def weights(*shape):
    rng = np.random.default_rng(3)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype("complex64")


def paired(x):
    """A complex value of two halves."""
    return lax.complex(*jnp.split(x, 2))


AFFINE = {  # name: (function, shape of its operand)
    "fft": (parts(fft.fft), (6,)),
    "fft, orthonormal, padded": (parts(lambda x: fft.fft(x, 8, norm="ortho")), (5,)),
    "rfft": (parts(fft.rfft), (7,)),
    "irfft": (lambda x: fft.irfft(paired(x)), (8,)),
    "fft2": (parts(fft.fft2), (3, 4)),
    "ifft2 of complex": (parts(lambda x: fft.ifft2(x + 1j * x.T)), (3, 3)),
    "irfft of three axes": (lambda x: fft.irfftn(x + 2j * x[::-1], (2, 3, 4)), (2, 3, 3)),
    "filter": (lambda x: fft.irfft(fft.rfft(x) * weights(4)), (6,)),
    "convolution in space": (lambda x: fft.irfft2(fft.rfft2(x, (5, 5)) * fft.rfft2(weights(2, 2).real, (5, 5)), (5, 5)), (4, 4)),
    "spectral layer": (lambda x: fft.irfft(jnp.einsum("ik,iok->ok", fft.rfft(x), weights(2, 3, 3)), 4), (2, 4)),
    "known / known": (parts(lambda x: fft.fft(x) / weights(4) + weights(4) - 2j), (4,)),
    "rearranged": (parts(lambda x: jnp.roll(jnp.concatenate([paired(x)[::-1], weights(1)]).at[jnp.array([0])].add(1j * x[:1]).reshape(2, 2).T, 1, 0)), (6,)),
    "gathered": (parts(lambda x: paired(x).at[np.array([2, 7])].get(mode="fill", fill_value=1 + 2j)), (6,)),
    "summed": (parts(lambda x: jnp.where(np.array([True, False, True]), paired(x), 1j).cumsum().sum() * jnp.ones(2)), (6,)),
    "conjugate": (parts(lambda x: jnp.conj(paired(x)) * 1j), (4,)),
    "cosine transform": (jax.scipy.fft.dct, (4,)),
    "steps": (parts(lambda x: lax.fori_loop(0, 3, lambda i, z: z * 1j + x, paired(jnp.concatenate([x, x])))), (3,)),
}  # fmt: skip
OTHERS = {
    "amplitudes": (lambda x: jnp.abs(fft.rfft(x)), (6,)),
    "power spectrum": (lambda x: jnp.abs(fft.rfft(x)) ** 2, (6,)),
    "energy": (lambda x: (lambda z: (z * jnp.conj(z)).real)(fft.fft(x)).sum(), (4,)),
    "autocorrelation": (lambda x: fft.irfft(fft.rfft(x) * jnp.conj(fft.rfft(x))), (4,)),
    "convolution of two": (lambda x: fft.irfft(fft.rfft(x[0]) * fft.rfft(x[1])), (2, 4)),
    "powers": (parts(lambda x: paired(x) ** 3 + (8 + paired(x)) ** -1 + jnp.square(paired(x))), (2,)),
    "quotient": (parts(lambda x: paired(x) / (6 + 1j * paired(x))), (4,)),
    "rotation": (parts(lambda x: jnp.exp(1j * x) * x), (1,)),
    "logarithm, angle": (parts(lambda x: jnp.log(8 + paired(x)) + jnp.angle(8 + paired(x)) * 1j), (4,)),
    "equal": (lambda x: jnp.where(paired(x) == 1j, x[:2], x[2:]), (4,)),
    "a known part": (lambda x: jnp.abs(lax.complex(x, jnp.full_like(x, 0.5))) + jnp.abs(lax.complex(jnp.zeros_like(x), x)), (3,)),
}  # fmt: skip


CASES = {name: (*case, True) for name, case in AFFINE.items()} | {
    name: (*case, False) for name, case in OTHERS.items()
}
WIDE = ("fft2", "filter", "power spectrum", "amplitudes")  # in float64 too


def boxes(shape, dtype):
    """Degenerate, around 0, and a large one."""
    center = np.random.default_rng(0).normal(size=(3, *shape))
    center[1] = 0
    return box(
        center - RADII.reshape(3, *[1] * len(shape)),
        center + RADII.reshape(3, *[1] * len(shape)),
        dtype,
    )


RADII = np.array([0, 1e-3, 2])


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, "float32") for name in CASES] + [(name, "float64") for name in WIDE]
)
def test_bounds(name, dtype):
    """Of samples; the exact range of what is affine, by every linear method."""
    fn, shape, affine = CASES[name]
    regions = boxes(shape, dtype)
    methods = (jb.ibp, jb.lbp, jb.crown) if affine else (jb.ibp, jb.crown)
    with precision(dtype):
        found = each_by_numpy(lambda region: [method(fn, region) for method in methods])(regions)
    size = math.prod(shape)
    basis = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape)
    points = [samples(jax.tree.map(lambda end, i=i: end[i], regions), 40) for i in range(3)]
    origin, *columns = np.split(values(fn, np.concatenate([basis, *points])), [1, 1 + size])
    ends = np.abs(columns[0] - origin).sum(0) * RADII.reshape(3, *[1] * (origin.ndim - 1))
    for i, true in enumerate(np.split(columns[1], 3)):
        slack = 300 * float(jnp.finfo(dtype).eps) * (1 + np.abs(true).max())
        center = values(fn, regions.center[i : i + 1])[0] if affine else None
        for method, bounds in zip(methods, found, strict=True):
            bounds = jax.tree.map(lambda end, i=i: end[i], bounds)
            assert_contains(bounds, true, slack, f"{method.__name__}, box {i}")
            assert np.isfinite([bounds.lower, bounds.upper]).all()
            if affine and method is not jb.ibp:
                np.testing.assert_allclose(bounds.lower, center - ends[i], atol=slack)
                np.testing.assert_allclose(bounds.upper, center + ends[i], atol=slack)


def test_absolute_values_of_every_size():
    """Where squares would overflow or vanish, and at 0."""
    scales = np.array([0, 1e-40, 1e-30, 1e-10, 1, 1e10, 1e30, 3e38])
    ends = [scales * part for part in (-0.2, 0.7)], [scales * part for part in (-0.5, -0.4)]
    regions = [box(np.minimum(*pair), np.maximum(*pair)) for pair in ends]
    size = lambda x, y: jnp.abs(lax.complex(x, y))
    least, most = scales * 0.4, scales * np.hypot(0.7, 0.5)
    ibp, lbp, crown = by_numpy(
        lambda *r: [method(size, *r) for method in (jb.ibp, jb.lbp, jb.crown)]
    )(*regions)
    np.testing.assert_allclose(ibp.lower, least, rtol=1e-6, atol=1e-38)
    np.testing.assert_allclose(ibp.upper, most, rtol=1e-6, atol=1e-38)
    for found in (lbp, crown):
        assert (found.lower <= least * 1.00001 + 1e-38).all() and (
            found.upper >= most * 0.99999 - 1e-38
        ).all()
        assert (found.lower >= -0.3 * scales - 1e-38).all() and (
            found.upper[:-1] <= 1.1 * most[:-1] + 1e-38
        ).all()


def test_gradients_at_0():
    def total(radius):
        region = jb.linf_ball(jnp.zeros(2), radius)
        found = [m(lambda x: jnp.abs(paired(x)), region) for m in (jb.ibp, jb.crown)]
        return sum((bounds.lower + bounds.upper).sum() for bounds in found)

    assert np.isfinite(by_numpy(jax.grad(total))(0.0))


def test_what_has_no_order():
    """A complex value of the whole function, and functions without a rule."""
    region = jb.linf_ball(jnp.ones(2), 0.1)
    with pytest.raises(TypeError, match=r"value is complex.*return jnp.real"):
        jb.ibp(fft.fft, region)
    with pytest.raises(
        jb.UnsupportedPrimitiveError, match=r"tanh with uncertain operands 0, 1 .*of complex values"
    ) as caught:
        jb.ibp(lambda x: jnp.abs(jnp.tanh(fft.fft(x)) * 2), region)
    assert caught.value.primitives == ("tanh",)
    known = jb.ibp(lambda x, z: (x, z), region, 1j)[1]
    assert known.lower == 1j
