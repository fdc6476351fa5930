"""The management API: JSON over HTTP, below ``/api``. Served by control on a Unix socket, reached through a shard."""
