"""Declaring nodes, and running graphs of them. Imports no network and no trainer."""
