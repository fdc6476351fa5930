"""Passwords, tokens, keys: everything here that is cryptography is a library's."""
