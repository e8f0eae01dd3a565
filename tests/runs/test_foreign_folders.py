"""A short run of the fuzzer of whole run folders; a long one: see `tests/helpers/foreign_folders.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_spoilt_folder_crashes_a_command_or_leads_out_of_it() -> None:
    """In a process of its own, whose memory is limited, beside a canary that nothing may look at."""
    places = [ROOT, ROOT / "experiments", ROOT / "tests" / "helpers"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, str(ROOT / "tests/helpers/foreign_folders.py"), "number=18"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs tried: 144, crashes found: 0" in done.stdout
    good, peak = map(int, re.findall(r"(\d+) MB", done.stdout))
    assert peak < good + 1000
    refused = sum(map(int, re.findall(r"(\d+) refused", done.stdout)))
    assert 0 < refused < 144
