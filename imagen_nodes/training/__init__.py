"""Training: a recipe trains networks on data and writes checkpoints."""
