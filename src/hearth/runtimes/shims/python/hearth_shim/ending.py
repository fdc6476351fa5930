"""The end of a drained instance."""

import os

from . import logs


def finish(connection):
    """Send what is left, run what the function registered with atexit, end the process."""
    import atexit

    logs.close()
    atexit._run_exitfuncs()
    logs.close()
    connection.finish_sending()
    connection.closed = True
    os._exit(0)
