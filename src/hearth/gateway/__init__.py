"""The data path: HTTP in, frames out, and back. Begin with `call.py`: it is the story of one request."""
