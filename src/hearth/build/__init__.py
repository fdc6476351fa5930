"""Builds: archives taken apart, toolchains found or fetched, build sandboxes run."""
