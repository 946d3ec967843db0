"""``python -m handover_lab.sandbox``."""

import sys

from handover_lab.sandbox import sandbox

sys.exit(sandbox.main())
