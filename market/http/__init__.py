"""A node's HTTP face: what browsers, scripts and monitors on this machine may ask it."""
