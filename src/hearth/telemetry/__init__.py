"""What the platform says of itself and of its functions: logs."""
