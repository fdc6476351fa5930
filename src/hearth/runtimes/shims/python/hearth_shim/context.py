"""What a handler is given beside its event: AWS Lambda's context object."""

from time import monotonic


class Context:
    """Names as in AWS Lambda."""

    __slots__ = ("_deadline", "_settings", "aws_request_id", "client_context", "identity")

    def __init__(self, settings, invocation, deadline):
        self._settings = settings
        self._deadline = deadline  # seconds, monotonic
        self.aws_request_id = invocation
        self.identity = None
        self.client_context = None

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
        return max(0, int((self._deadline - monotonic()) * 1000))

    def __repr__(self):
        return f"Context(aws_request_id={self.aws_request_id!r}, function_name={self.function_name!r})"
