"""The rollout worker: vLLM's engine, the weights that reach it, and the proof that it computes with them."""
