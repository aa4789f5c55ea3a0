"""Peers and bytes: identity, encoding, streams, gossip, discovery. Knows no offer, no job, no coin."""
