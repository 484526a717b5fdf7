"""laLTE language models: configuration, layers, state, generation and checkpoints.

The daemon (`memoryd`) imports this package; it imports only `lalte_kernels`. `lalte.config` and
`lalte.text` need no torch, everything else does.
"""
