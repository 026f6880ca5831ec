"""Asking: what training on fiction changed, measured on checkpoints and by steering."""
