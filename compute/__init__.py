"""What a machine can run, and running it. Knows no price and no buyer."""
