"""The layers of a model: mixers (attention of three kinds, Gated DeltaNet), MLP and RMSNorm.

A mixer works in three parts, so that a batch of rows shares its matrix products while each
session's state is touched alone: `project` and `output` are token-wise; `advance` and `roll` are
the state's. Only `lalte.model` calls them.
"""
