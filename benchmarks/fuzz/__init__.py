"""Every reader of a stranger's bytes on inputs that are almost right: ``make fuzz SEED=n CASES=n``.

A case is a reader and an input, both drawn from (seed, number): a sound input, mutated in its structure or its bytes.
It may be read, or end in a ``UserError`` (of the endpoint: a status 4xx; of a judge's reply: no verdict). All else
counts as a traceback: another exception, a case that takes over ``watch.DEADLINE_S``, memory beyond
``watch.MEMORY_BYTES``, a crash of the interpreter, and a message so long that nobody reads it.
"""
