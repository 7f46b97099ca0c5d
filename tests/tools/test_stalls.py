"""`tools/stalls.py`: a command whose processes are stopped now and then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "stalls.py"

WAITS = """
import signal, sys, time
heard = []
signal.signal(signal.SIGCONT, lambda *_: heard.append(1))
while not heard:
    time.sleep(0.01)
"""

WORK = f"""
import subprocess
code = subprocess.call([{sys.executable!r}, "-c", {WAITS + "sys.exit(4)"!r}])
{WAITS}
sys.exit(3 + code)
"""


def test_each_process_is_held_up_and_goes_on_to_its_end():
    """The command and what it starts wait until they were stopped."""
    command = [sys.executable, str(TOOL), "--longest", "0.1"]
    command += [sys.executable, "-c", WORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 7, done.stderr
    assert "stops" in done.stderr
