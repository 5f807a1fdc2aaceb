"""What a machine with one GPU shows in at most 8 minutes: right numbers, speed against plain Transformers, memory.

``python -m benchmarks.gpu_check --out DIR`` needs torch and Transformers; parts that need more say what is missing.
Each part is a process of its own with a time limit, so that one that crashes or hangs costs the others nothing.
"""
