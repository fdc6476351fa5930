"""System calls that Python's library lacks, by ctypes on libc; nothing here knows of Hearth."""
