"""The public methods: who bounds the operands of non-linear equations, and who the output."""
