"""``python -m handover_lab.demo``."""

import sys

from handover_lab.demo import command

sys.exit(command.main())
