"""The traced function: one flat graph of primitives, and how it is simplified."""
