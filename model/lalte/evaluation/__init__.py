"""What a model remembers, measured: tasks as plain data, readers that answer them, scores.

A task writes samples, each a function of (task, length, seed, index): what is told, and questions
with what a right reply contains. A reader answers them: `reading` in this process, the daemon's
sessions elsewhere. `variants` puts other memories of the same bytes on the same weights. Nothing
here is trained on. May import the rest of lalte; only the command line imports it.
"""
