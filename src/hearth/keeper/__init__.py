"""The privileged process of a node: makes and removes sandboxes, and nothing else."""
