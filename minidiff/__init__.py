"""Train and sample diffusion models on NumPy and CuPy arrays."""
