"""``python -m handover_lab.mutants``."""

import sys

from handover_lab.mutants import mutants

sys.exit(mutants.main())
