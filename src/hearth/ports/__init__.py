"""Protocols only: what the use cases need of the world. Adapters implement them, bootstrap wires them."""
