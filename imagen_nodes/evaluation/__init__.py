"""Measuring and showing what networks do: plots."""
