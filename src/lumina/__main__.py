"""`python -m lumina`."""

from __future__ import annotations

import sys

from lumina.cli.main import main

sys.exit(main())
