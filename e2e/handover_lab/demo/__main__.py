"""``python -m handover_lab.demo``."""

import sys

from handover_lab.demo import demo

sys.exit(demo.main())
