"""The command line. Nothing here imports httpx, pydantic or rich before a command needs it."""
