"""What the management API and the gateway share: how an error of the tree looks over HTTP."""
