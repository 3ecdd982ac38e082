# ruff: noqa: E501 -- a case is one line
"""Complex values on the way: Fourier transforms, products, absolute values; by their real and imaginary parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracle import DTYPES, METHODS, assert_contains, box, precision, samples, values

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
    "fft, odd, along the first axis": (parts(lambda x: fft.fft(x, axis=0)), (5, 2)),
    "fft, orthonormal, padded": (parts(lambda x: fft.fft(x, 8, norm="ortho")), (5,)),
    "ifft": (parts(fft.ifft), (6,)),
    "rfft": (parts(fft.rfft), (7,)),
    "irfft": (lambda x: fft.irfft(paired(x)), (8,)),
    "irfft, odd": (lambda x: fft.irfft(paired(x), 7), (8,)),
    "hfft": (lambda x: fft.hfft(paired(x)), (8,)),
    "fft2": (parts(fft.fft2), (3, 4)),
    "ifft2 of complex": (parts(lambda x: fft.ifft2(x + 1j * x.T)), (3, 3)),
    "rfft2": (parts(fft.rfft2), (3, 4)),
    "rfft of three axes": (parts(fft.rfftn), (2, 3, 2)),
    "irfft of three axes": (lambda x: fft.irfftn(x + 2j * x[::-1], (2, 3, 4)), (2, 3, 3)),
    "filter": (lambda x: fft.irfft(fft.rfft(x) * weights(4)), (6,)),
    "convolution in space": (lambda x: fft.irfft2(fft.rfft2(x, (5, 5)) * fft.rfft2(weights(2, 2).real, (5, 5)), (5, 5)), (4, 4)),
    "identity": (lambda x: fft.irfft(fft.rfft(x), 5), (5,)),
    "spectral layer": (lambda x: fft.irfft(jnp.einsum("ik,iok->ok", fft.rfft(x), weights(2, 3, 3)), 4), (2, 4)),
    "known / known": (parts(lambda x: fft.fft(x) / weights(4) + weights(4) - 2j), (4,)),
    "rearranged": (parts(lambda x: jnp.roll(jnp.concatenate([paired(x)[::-1], weights(1)]).at[jnp.array([0])].add(1j * x[:1]).reshape(2, 2).T, 1, 0)), (6,)),
    "gathered": (parts(lambda x: paired(x).at[np.array([2, 7])].get(mode="fill", fill_value=1 + 2j)), (6,)),
    "summed": (parts(lambda x: jnp.where(np.array([True, False, True]), paired(x), 1j).cumsum().sum() * jnp.ones(2)), (6,)),
    "conjugate": (parts(lambda x: jnp.conj(paired(x)) * 1j), (4,)),
    "cosine transform": (jax.scipy.fft.dct, (4,)),
    "steps": (parts(lambda x: lax.fori_loop(0, 3, lambda i, z: z * 1j + x, paired(jnp.concatenate([x, x])))), (3,)),
    "a choice": (parts(lambda x: lax.cond(x.sum() > 1e9, lambda z: z * 0, lambda z: z * 2j, fft.fft(x))), (3,)),
}  # fmt: skip
OTHERS = {
    "amplitudes": (lambda x: jnp.abs(fft.rfft(x)), (6,)),
    "power spectrum": (lambda x: jnp.abs(fft.rfft(x)) ** 2, (6,)),
    "energy": (lambda x: (lambda z: (z * jnp.conj(z)).real)(fft.fft(x)).sum(), (4,)),
    "autocorrelation": (lambda x: fft.irfft(fft.rfft(x) * jnp.conj(fft.rfft(x))), (4,)),
    "convolution of two": (lambda x: fft.irfft(fft.rfft(x[0]) * fft.rfft(x[1])), (2, 4)),
    "powers": (parts(lambda x: paired(x) ** 3 + (4 + paired(x)) ** -2 + jnp.square(paired(x)) + jnp.prod(paired(x))), (4,)),
    "quotient": (parts(lambda x: paired(x) / (6 + 1j * paired(x))), (4,)),
    "matrices": (parts(lambda x: (x + 1j * x.T) @ (x - 2j)), (2, 2)),
    "rotation": (parts(lambda x: jnp.exp(1j * x) * x), (3,)),
    "logarithm, angle": (parts(lambda x: jnp.log(8 + paired(x)) + jnp.angle(8 + paired(x)) * 1j), (4,)),
    "equal": (lambda x: jnp.where(paired(x) == 1j, x[:2], x[2:]), (4,)),
    "a known part": (lambda x: jnp.abs(lax.complex(x, jnp.full_like(x, 0.5))) + jnp.abs(lax.complex(jnp.zeros_like(x), x)), (3,)),
}  # fmt: skip


def boxes(shape, dtype):
    """Degenerate, around 0, and of several sizes."""
    rng = np.random.default_rng(0)
    center = rng.normal(size=(5, *shape))
    center[1] = 0
    radius = np.array([0, 0.3, 1e-4, 0.5, 2]).reshape(5, *[1] * len(shape))
    return box(center - radius, center + radius, dtype)


def check(cases, dtype, exact):
    with precision(dtype):
        regions = {name: boxes(shape, dtype) for name, (_, shape) in cases.items()}
        found = jax.jit(
            jax.vmap(
                lambda regions: {
                    n: [method(cases[n][0], r) for method in METHODS] for n, r in regions.items()
                }
            )
        )(regions)
        eps = float(jnp.finfo(dtype).eps)
    for name, (fn, _) in cases.items():
        for i in range(5):
            region = jax.tree.map(lambda end, i=i: end[i], regions[name])
            true = values(fn, samples(region, 50))
            slack = 300 * eps * (1 + np.abs(true).max())
            for method, bounds in zip(METHODS, found[name], strict=True):
                bounds = jax.tree.map(lambda end, i=i: np.asarray(end[i]), bounds)
                assert_contains(bounds, true, slack, f"{name}, {method.__name__}, box {i}")
                assert np.isfinite([bounds.lower, bounds.upper]).all() or not exact
                if exact:
                    reach = reaches(fn, region)
                    np.testing.assert_allclose(bounds.lower, reach[0], atol=slack, err_msg=name)
                    np.testing.assert_allclose(bounds.upper, reach[1], atol=slack, err_msg=name)


def reaches(fn, region):
    """The range of an affine function, by its Jacobian."""
    with precision("float64"):
        center, radius = (jnp.asarray(x, float) for x in (region.center, region.radius))
        size = jnp.abs(jax.jacobian(fn)(center))
        value, reach = fn(center), jnp.tensordot(size, radius, radius.ndim)
        return np.asarray(value - reach), np.asarray(value + reach)


@pytest.mark.parametrize("dtype", DTYPES)
def test_affine(dtype):
    """The exact range, by every method."""
    check(AFFINE, dtype, exact=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_others(dtype):
    check(OTHERS, dtype, exact=False)
