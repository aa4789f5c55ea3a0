"""Making the bundled models from nothing but pictures that this package draws and sentences that it has said.

Not used at run time: a worker only loads the finished folder. Knows no job, no price and no peer.
"""
