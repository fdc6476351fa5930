"""Sources and artifacts: folders addressed by the digest of their content."""
