"""Use cases: what the platform does, on ports alone. Nothing here opens a file, a socket or a database."""
