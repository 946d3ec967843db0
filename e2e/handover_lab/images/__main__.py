"""``python -m handover_lab.images``."""

import contextlib
import sys

from handover_lab.images import images

with contextlib.suppress(KeyboardInterrupt):
    sys.exit(images.main())
sys.exit(130)
