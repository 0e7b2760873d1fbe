"""Files that people already own, made checkpoints: no other place knows other formats."""
