"""What a handler is given beside its event: AWS Lambda's context object."""

from time import monotonic


class Context:
    """Names as in AWS Lambda."""

    __slots__ = ("_settings", "_stream", "aws_request_id")
    identity = client_context = None

    def __init__(self, settings, stream, invocation):
        self._settings = settings
        self._stream = stream
        self.aws_request_id = invocation

    @property
    def function_name(self):
        return self._settings["function"]

    @property
    def function_version(self):
        return self._settings["version"]

    @property
    def memory_limit_in_mb(self):
        return str(self._settings["memory_mb"])  # text, as AWS gives it

    @property
    def invoked_function_arn(self):
        settings = self._settings
        return f"hearth:{settings['namespace']}/{settings['function']}:{settings['version']}"

    @property
    def log_group_name(self):
        return f"{self._settings['namespace']}/{self._settings['function']}"

    @property
    def log_stream_name(self):
        return self._settings["version"]

    def get_remaining_time_in_millis(self):
        """Milliseconds until the platform gives up on this request; never below 0."""
        stream = self._stream
        return max(0, int((stream.arrived - monotonic()) * 1000) + int(stream.head[1]))

    def __repr__(self):
        return f"Context(aws_request_id={self.aws_request_id!r}, function_name={self.function_name!r})"
