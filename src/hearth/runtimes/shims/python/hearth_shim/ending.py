"""The end of a drained instance."""

import os

from . import logs


def finish(connection):
    """Send what is left, run what the function registered with atexit, end the process."""
    import atexit

    logs.close()
    connection.flush()
    atexit._run_exitfuncs()
    connection.flush()
    connection.closed = True
    os._exit(0)
