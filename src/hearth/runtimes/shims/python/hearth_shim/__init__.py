"""The parts of the Python guest. Function code never sees this folder on its sys.path."""
