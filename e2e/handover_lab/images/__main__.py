"""``python -m handover_lab.images``."""

import contextlib
import sys

from handover_lab.images import build

with contextlib.suppress(KeyboardInterrupt):
    sys.exit(build.main())
sys.exit(130)
