"""The JSON shapes of the management API, shared by server and client."""
