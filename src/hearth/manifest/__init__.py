"""function.yaml, read the same by the command line and the server."""
