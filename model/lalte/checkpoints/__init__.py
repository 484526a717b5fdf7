"""Model folders: read other people's checkpoints, convert, fetch and load ours.

Import the modules themselves (`lalte.checkpoints.load`, `.convert`, `.pull`, `.tiny`,
`.manifest`): `manifest` and `errors` need no torch, `pull` needs it only to convert, the others
always. Nothing in `lalte` outside this package reads or writes a model folder.
"""
