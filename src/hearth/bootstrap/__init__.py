"""One file per kind of process: the only place that names concrete adapters."""
