"""The engine: one thread that runs the model, and the asyncio-side handle to it.

`engine` and `generation` are the handle; `messages` is all that crosses to the thread; `loop` is
the thread; `scheduler` and `lanes` decide what runs next and import no torch; `replies` keeps what
one generation has drawn; `runner` alone imports lalte and calls the model. `memoryd.sessions`
imports the handle and the messages; `memoryd.app` hands the runner's loader in.
"""
