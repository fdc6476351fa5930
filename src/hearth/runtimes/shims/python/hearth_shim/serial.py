"""The loop for one request at a time: reads, runs the handler and writes on the main thread."""


def serve(connection, run, ready):
    """Answer requests until the host drains or hangs up."""

    def wait(stream, enough):
        while not enough():
            connection.flush()
            connection.read()

    connection.wait = wait
    connection.glance = connection.poll  # between two items of a stream: has the caller gone?
    queue = connection.ready
    ready()
    while True:
        while queue:
            run(queue.popleft())
            connection.flush()
        connection.flush()
        if connection.draining and not connection.streams:
            return
        connection.read()
