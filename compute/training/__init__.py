"""Making the bundled text-to-image model from nothing but pictures that this package draws itself.

Not used at run time: a worker only loads the finished folder. Knows no job, no price and no peer.
"""
