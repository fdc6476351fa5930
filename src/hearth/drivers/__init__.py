"""Isolation technologies behind `ports.driver`; strangers to each other."""
