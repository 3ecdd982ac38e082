"""Random programs: well-formed JAX functions of a few steps, regions for them, and what must hold."""
