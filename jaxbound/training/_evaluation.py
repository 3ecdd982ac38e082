"""Evaluates clean, attacked and verified error over a test set, and whether they contradict each other."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxbound as jb
from jaxbound.training import _attack

Apply = Callable[[Any, jax.Array], jax.Array]  # parameters, one example -> logits [K]
Complete = Callable[..., jb.Verdict]  # `jb.verify`, with options of one's own
Progress = Callable[[str, int, int], None]  # stage, images done, images in all


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Holds every image's smallest margin: `lower <= min over the box <= attacked <= clean`.

    Attributes:
      clean: smallest margin of the image itself `[N]`.
      attacked: smallest margin that the attack found, the image itself included `[N]`.
      lower: method -> lower bound on the smallest margin, of the first `n <= N` images `[n]`.
      labels: their true classes `[N]`.
      slack: an image is verified by a lower bound above it.
    """

    clean: np.ndarray
    attacked: np.ndarray
    lower: dict[str, np.ndarray]
    labels: np.ndarray
    slack: float = 0.0

    @property
    def clean_error(self) -> float:
        """Returns the share of the images classified wrongly."""
        return float(np.mean(~(self.clean > 0)))

    @property
    def pgd_error(self) -> float:
        """Returns the share of the images classified wrongly or attacked successfully."""
        return float(np.mean(~(self.attacked > 0)))

    @property
    def verified(self) -> dict[str, np.ndarray]:
        """Tells by method whether each of its images is verified; "union": each of all images, by any method."""
        verified = {name: lower > self.slack for name, lower in self.lower.items()}
        union = np.zeros(self.clean.shape, bool)
        for of_method in verified.values():
            union[: len(of_method)] |= of_method
        return verified | {"union": union}

    @property
    def verified_error(self) -> dict[str, float]:
        """Returns by method (and for the union) the share of its images that are not verified."""
        return {name: float(np.mean(~verified)) for name, verified in self.verified.items()}

    @property
    def contradictions(self) -> dict[str, int]:
        """Counts by method the images verified and yet attacked successfully: 0, or something is unsound."""
        attacked = ~(self.attacked > 0)
        return {name: int(np.sum(v & attacked[: len(v)])) for name, v in self.verified.items()}

    @property
    def undecided(self) -> int:
        """Counts the images that are neither verified by any method nor attacked successfully."""
        return int(np.sum((self.attacked > 0) & ~self.verified["union"]))

    @property
    def classes(self) -> dict[int, Evaluation]:
        """Returns by label the evaluation of its images, without the methods that saw none of them."""
        return {int(label): self._where(self.labels == label) for label in np.unique(self.labels)}

    def _where(self, chosen: np.ndarray) -> Evaluation:
        lower = {name: bounds[chosen[: len(bounds)]] for name, bounds in self.lower.items()}
        lower = {name: bounds for name, bounds in lower.items() if len(bounds)}
        arrays = self.clean[chosen], self.attacked[chosen], lower, self.labels[chosen]
        return Evaluation(*arrays, self.slack)

    def summary(self) -> dict[str, Any]:
        """Returns errors, image counts and contradictions, of all and of every class, ready for JSON."""
        classes = {str(label): part._totals() for label, part in self.classes.items()}
        return self._totals() | {"classes": classes}

    def _totals(self) -> dict[str, Any]:
        return {
            "images": len(self.clean),
            "clean_error": self.clean_error,
            "pgd_error": self.pgd_error,
            "verified_error": self.verified_error,
            "verified_images": {name: len(v) for name, v in self.verified.items()},
            "contradictions": self.contradictions,
            "undecided": self.undecided,
        }


def evaluator(
    apply: Apply,
    methods: Mapping[str, Callable[..., jb.Interval]],
    *,
    clip: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 256,
    batch_sizes: Mapping[str, int] | None = None,
    limits: Mapping[str, int] | None = None,
    attack_steps: int = 20,
    attack_restarts: int = 1,
    slack: float = 0.0,
    complete: Complete | None = None,
    seed: int = 0,
) -> Callable[..., Evaluation]:
    """Builds a compiled evaluation on linf balls, to be called for many parameters and radii.

    Args:
      apply: parameters and one example -> logits `[K]`.
      methods: name -> method such as `jb.ibp` or `functools.partial(jb.crown, relaxation="tight")`.
      clip: the domain of the inputs, as in `jb.linf_ball`.
      batch_size: images at once.
      batch_sizes: the same for single methods, by name.
      limits: how many images, the first ones, a method (by name) sees, where all would take too
        long.
      attack_steps: steps of `pgd`.
      attack_restarts: restarts of `pgd`, one after another, so memory does not grow with them; each
        attacks only the images that are not yet broken.
      slack: what a lower bound must exceed to verify, in units of margins; allows for rounding.
      complete: decides the images that no method verifies and no attack breaks, one at a time, such as
        ``functools.partial(jb.verify, timeout=10.0)``. Its results are those of a method called "complete", of as
        many images as the method that sees the most; its witnesses count as attacks.
      seed: of the attack's starts.

    Returns:
      `evaluate(params, images, labels, eps, progress=None) -> Evaluation` with float images `[N,
      ...]`, integer labels `[N]`, the radius in the images' units, and `progress(stage, done,
      total)` called after every batch (stage "pgd" starts anew with every restart, stage "complete"
      counts images). It raises FloatingPointError when a bound is NaN.

    Raises:
      ValueError: `limits` or `batch_sizes` name an unknown method, or a method is called "union" or "complete".

    Example:
      >>> import jax, jax.numpy as jnp, jaxbound as jb
      >>> evaluate = evaluator(lambda w, x: w * x, {"ibp": jb.ibp}, clip=None)
      >>> images, labels = jnp.array([[1.0, 0.0], [0.3, 0.2]]), jnp.array([0, 0])
      >>> evaluate(jnp.array(2.0), images, labels, 0.1).verified_error["ibp"]
      0.5
    """
    batch_sizes, limits = _by_name(methods, batch_sizes), _by_name(methods, limits)
    attack, decide = _attacker(apply, clip, attack_steps, seed), _decider(apply, complete, clip)
    bounds = {name: _bounder(apply, method, clip) for name, method in methods.items()}
    clean_margins = jax.jit(jax.vmap(lambda p, x, y: _margins(apply, p, y)(x).min(), (None, 0, 0)))

    def evaluate(params, images, labels, eps, progress: Progress | None = None) -> Evaluation:
        every = np.arange(len(images))

        def over(stage, index, run):
            tell, size = _telling(progress, stage), batch_sizes.get(stage, batch_size)
            return _in_batches(lambda i: run(images[i], labels[i], i), index, size, tell)

        def attack_again(index, restart):
            return over("pgd", index, lambda x, y, i: attack(params, x, y, eps, i, restart))

        def lower_of(name, bound):
            seen = every[: limits.get(name)]
            return _not_nan(over(name, seen, lambda x, y, i: bound(params, x, y, eps)), name)

        clean = over("clean", every, lambda x, y, i: clean_margins(params, x, y))
        attacked = _attacked(clean, attack_restarts, attack_again)
        lower = {name: lower_of(name, bound) for name, bound in bounds.items()}
        found = Evaluation(clean, attacked, lower, np.asarray(labels), slack)
        return decide(found, params, images, eps, progress)

    return evaluate


def _by_name(methods: Mapping[str, Any], values: Mapping[str, int] | None) -> dict[str, int]:
    """Returns what is given by methods' names; raises if there are other names, or methods with names of ours."""
    if unknown := (set(values or {}) - set(methods)) or ({"union", "complete"} & set(methods)):
        raise ValueError(
            f"not usable as method names here: {sorted(unknown)}; methods are {sorted(methods)}"
        )
    return dict(values or {})


def _decider(apply: Apply, complete: Complete | None, clip):
    """Returns a function that decides the images that are left in an evaluation, and adds what it finds to it."""

    def above(params, x, label, slack):
        return jb.margins(apply(params, x), label) - slack

    def decide(found: Evaluation, params, images, eps, progress: Progress | None) -> Evaluation:
        if complete is None:
            return found
        count = max((len(lower) for lower in found.lower.values()), default=len(found.clean))
        attacked, best = found.attacked.copy(), np.full(count, -np.inf, found.clean.dtype)
        for lower in found.lower.values():
            best[: len(lower)] = np.maximum(best[: len(lower)], lower)
        left = np.flatnonzero((attacked[:count] > 0) & ~(best > found.slack))
        for done, i in enumerate(left, 1):
            box, label = jb.linf_ball(images[i], eps, clip), found.labels[i]
            verdict = complete(above, params, box, label, found.slack)
            best[i] = max(best[i], verdict.lower.min() + found.slack)
            if verdict.status == "verified":  # margins are above the slack, if not by how much
                best[i] = max(best[i], np.nextafter(best.dtype.type(found.slack), np.inf))
            if verdict.witness is not None:
                margins = jb.margins(apply(params, jnp.asarray(verdict.witness[1])), label)
                attacked[i] = min(attacked[i], float(margins.min()))
            if progress:
                progress("complete", done, len(left))
        lower = found.lower | {"complete": best}
        return dataclasses.replace(found, attacked=attacked, lower=lower)

    return decide


def _attacked(clean: np.ndarray, restarts: int, attack) -> np.ndarray:
    """Returns the smallest margins after all restarts; each restart attacks the images that still stand."""
    margins = clean.copy()
    for restart in range(restarts):
        standing = np.flatnonzero(margins > 0)
        margins[standing] = np.minimum(margins[standing], attack(standing, restart))
    return margins


def _telling(progress: Progress | None, stage: str) -> Callable[[int, int], None]:
    return functools.partial(progress, stage) if progress else lambda done, total: None


def _in_batches(run, index: np.ndarray, size: int, tell: Callable[[int, int], None]) -> np.ndarray:
    """Runs `run(indices)` in batches of one size; the last batch repeats an image."""
    total, parts = len(index), [np.zeros(0, np.float32)]
    for start in range(0, total, size):
        batch = index[np.minimum(np.arange(start, start + size), total - 1)]
        parts.append(np.asarray(run(batch)))
        tell(min(start + size, total), total)
    return np.concatenate(parts)[:total]


def _margins(apply: Apply, params, label):
    return lambda x: jb.margins(apply(params, x), label)


def _bounder(apply: Apply, method, clip):
    """Compiles a function for a batch's lower bounds on the smallest margin."""

    def lower(params, x, label, eps):
        return method(_margins(apply, params, label), jb.linf_ball(x, eps, clip)).lower.min()

    return jax.jit(jax.vmap(lower, (None, 0, 0, None)))


def _attacker(apply: Apply, clip, steps: int, seed: int):
    """Returns PGD on a batch, compiled one step at a time: loops double XLA:CPU's convolution times."""
    fn = functools.partial(functools.partial, apply)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, None, 0, None))
    def start(params, x, label, eps, index, restart):
        key = jax.random.fold_in(jax.random.key(seed), index)
        return _attack.start_walk(fn(params), jb.linf_ball(x, eps, clip), label, key, restart)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, None, 0, None))
    def move(params, x, label, eps, walk, size):
        return _attack.move(fn(params), jb.linf_ball(x, eps, clip), label, walk, size)

    def attack(params, x, label, eps, index, restart):
        walk = start(params, x, label, eps, index, restart)
        for size in _attack.step_sizes(steps, 0.25):
            walk = move(params, x, label, eps, walk, jnp.float32(size))
        return walk.worst.margins.min(-1)

    return attack


def _not_nan(lower: np.ndarray, name: str) -> np.ndarray:
    if np.isnan(lower).any():
        raise FloatingPointError(
            f"{name}: {int(np.isnan(lower).sum())} of {len(lower)} bounds are NaN"
        )
    return lower
