"""Writes ``docs/PRIMITIVES.md``: what is bounded, and how, as the rule tables say.

``python docs/primitives.py`` after a rule was added or changed.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from jax.extend.core import primitives as jp

from jaxbound._program.activations import Activation
from jaxbound._program.rewrites import AS_IT_RUNS, BY_NAME, CALLS, REARRANGE, REWRITES
from jaxbound._rules.interval_rules import interval_rules
from jaxbound._rules.linear_rules import linear_rules
from jaxbound._rules.relaxations import relaxations

# Those of tests/test_flax_layers.py and tests/test_control_flow.py.
LAYERS = {
    "linen": (
        "Dense", "DenseGeneral", "Einsum", "Embed", "Conv", "ConvTranspose", "avg_pool", "max_pool", "BatchNorm",
        "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "WeightNorm", "SpectralNorm", "Dropout",
        "MultiHeadDotProductAttention", "LSTMCell", "GRUCell", "RNN",
    ),
    "nnx": ("Linear", "Conv", "BatchNorm", "LayerNorm", "MultiHeadAttention", "RNN"),
}  # fmt: skip

# These have rules for all operands, and are rewritten where they are a square, a whole power or of a wider type.
SOMETIMES = {jp.dot_general_p, jp.pow_p, jp.mul_p}

HEAD = """# What is bounded, and how

Written by `python docs/primitives.py` from the rule tables.

An interval is *exact* if it is the smallest one for independent operands (one uncertain factor of a matrix
product, a known predicate), *sound* if it holds and may be wider. In the linear methods (`lbp`, `crown_ibp`,
`crown_lbp`, `crown`) a primitive is *affine*, hence exact; or lies between two affine functions, *lines*; or
between two *constants*, the ends of its interval. *Rewritten* primitives become others of this table as the
function is traced. What follows *else* is for more than one uncertain operand, or another than the first. A
name after a bar is an activation, recognised however it is spelt.

| primitive | interval (`ibp`) | linear methods |
|---|---|---|
"""

TAIL = """
Calls are replaced by their bodies: {calls}. Where JAX has them, {rearrange} are affine. On known values, every
primitive works. Anything else is an `UnsupportedPrimitiveError`, which names the line, the layer and what to
register.
"""


def interval_of(primitive) -> str:
    return "exact" if interval_rules[primitive].exact else "sound"


def lines_of(primitive) -> str:
    kinds = ["lines" if primitive in relaxations else "constants"]
    if primitive in linear_rules:
        kinds = ["affine"] if all_affine(primitive) else ["affine", *kinds]
    if primitive in REWRITES and primitive not in SOMETIMES:
        kinds = [kinds[0], "rewritten"]
    return ", else ".join(kinds)


def all_affine(primitive) -> bool:
    """Whether it is affine in whatever operands its interval rule takes."""
    rule, affine = interval_rules[primitive], linear_rules[primitive].operands
    patterns = itertools.chain(*(itertools.product((True, False), repeat=n) for n in (1, 2, 3)))
    accepted = (p for p in patterns if any(p) and rule.accepts(p))
    return all(affine(pattern) is not None for pattern in accepted)


def row(primitive) -> tuple[str, str, str]:
    name = f"`{primitive}`"
    if isinstance(primitive, Activation):
        name = f"\\| {name}"
    if primitive not in interval_rules:
        return name, "rewritten", "rewritten"
    return name, interval_of(primitive), lines_of(primitive)


def names(primitives: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(map(str, primitives)))


def table() -> str:
    """The whole text of ``docs/PRIMITIVES.md``."""
    known = {*interval_rules, *REWRITES, *BY_NAME} - {*REARRANGE, *AS_IT_RUNS}
    rows = sorted((row(p) for p in known), key=lambda cells: (cells[0].strip("\\| `"), cells))
    text = HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    text += TAIL.format(calls=names(CALLS), rearrange=names(REARRANGE))
    text += "\n## Flax layers\n\nTested on samples and corners, in inference; tokens and masks are known.\n"
    for kind, layers in LAYERS.items():
        text += f"\n- `flax.{kind}`: {', '.join(f'`{name}`' for name in layers)}\n"
    return text


if __name__ == "__main__":
    path = Path(__file__).with_name("PRIMITIVES.md")
    path.write_text(table())
    print(f"{path}: {table().count(chr(10))} lines")
