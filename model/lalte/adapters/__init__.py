"""Adapters that ship with the package: one folder a model, its recipe beside the weights."""
