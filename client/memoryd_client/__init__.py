"""Client of memoryd."""
