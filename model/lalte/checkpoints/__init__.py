"""Model folders: read other people's checkpoints, convert, fetch and load ours.

Import the modules themselves (`lalte.checkpoints.load`, `.convert`, `.pull`, `.tiny`,
`.manifest`): `manifest` and `errors` need no torch, the others do. Nothing in `lalte` outside this
package reads or writes a model folder.
"""
