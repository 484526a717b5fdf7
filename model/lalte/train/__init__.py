"""Trains members of the family from scratch, on one process or on many.

config      a run, as one validated YAML file
tokens      memory-mapped token files and the packed sequences in them
tasks       synthetic sequences whose answers lie far back: MQAR and needles
topics      synthetic documents in which memory pays in degrees
parallel    the model over whole sequences at once, differentiable, its parameters the model's own
penalty     the L1 penalty on retention scores and the controller of its strength
optimiser   AdamW's parameter groups and the learning rate's course
ranks       the processes that train together
checkpoint  what a run needs to go on exactly, as safetensors
trainer     the loop

May be imported by the command line; imports `lalte`'s model, never the daemon.
"""
