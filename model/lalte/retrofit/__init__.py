"""Turns a converted Llama checkpoint into a model that remembers, on a small machine.

The base weights stay frozen. What is trained is small and ships as an adapter beside the recipe
that made it. Stages, each resumable: `harvest` runs the full-attention teacher over generated
memory streams; `fit` trains the routers on what it attended to; `calibrate` places their
threshold; `adapter` packs them. May import the rest of lalte; only the command line imports it.
"""
