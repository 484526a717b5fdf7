"""Turns a converted Llama checkpoint into a model that remembers, on a small machine.

The base weights stay frozen. What is trained is small and ships as an adapter beside the recipe
that made it. Stages, each resumable: `scan` finds the layers whose attention is local; `branches`
fits GDN layers in their place and distills them; `harvest` runs the full-attention teacher over
generated memory streams; `fit` trains the routers on what it attended to; `calibration` places
their threshold; `recipe` runs them all and packs an adapter. May import the rest of lalte; the
command line imports it, and `lalte.evaluation` its corpus.
"""
