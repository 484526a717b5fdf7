"""Evaluations of a model's memory: over live sessions of a daemon, or in this process.

`sessions` asks a daemon as any client does, `own_daemon` starts one, `cells` measures one cell of a
table, and `log` keeps the results, so that an interrupted evaluation goes on. May import
everything; only the command line and scripts import it.
"""
