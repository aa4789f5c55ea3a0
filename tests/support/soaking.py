"""``node.py`` that keeps for half a minute what others keep for ten: what a short soak measures is then what stays.

A node remembers every job for a while, so that whoever lost a connection may come back. Its memory is level only when
as many are forgotten as come.
"""

from __future__ import annotations

import sys

import market.gateway
import market.session.seller
import node

KEEP_S = 30.0

if __name__ == "__main__":
    market.session.seller.KEEP_MS = int(KEEP_S * 1000)
    market.gateway.KEEP_S = KEEP_S
    market.gateway.SWEEP_S = 5.0
    sys.exit(node.main())
