"""A script in a fork (`tests/helpers/forked.py`) answers as one that Python has started anew."""

import os
import subprocess
import sys
from pathlib import Path

from forked import preload, run_script

SCRIPT = """
import logging, os, sys, warnings
print(sys.argv[1:], os.getcwd(), os.environ.get("ONLY"), "HOME" in os.environ, __name__, sys.stdin.read())
logging.getLogger("a").warning("heard")
logging.getLogger("a").info("not heard")
warnings.warn("a warning", DeprecationWarning)
os.write(2, b"below Python\\n")
sys.path, os.environ["LEFT"] = [], "behind"
{end}
"""


def test_a_fork_is_a_program_of_its_own(tmp_path: Path) -> None:
    preload()  # some libraries add to the environment when they are imported
    own = {"ONLY": "here", "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    for end in ("", "sys.exit(3)", "sys.exit('a word')", "raise ValueError('broken')"):
        path = tmp_path / "script.py"
        path.write_text(SCRIPT.format(end=end))
        before = (os.getcwd(), dict(os.environ), list(sys.path), list(sys.argv))
        forked = run_script(path, "a", "b=1", cwd=tmp_path, env=own)
        command = [sys.executable, str(path), "a", "b=1"]
        anew = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=own, stdin=subprocess.DEVNULL)
        assert (os.getcwd(), dict(os.environ), list(sys.path), list(sys.argv)) == before
        assert (forked.returncode, forked.stdout) == (anew.returncode, anew.stdout)
        assert forked.stderr.splitlines()[:2] == anew.stderr.splitlines()[:2] == ["heard", "below Python"]
        assert forked.stderr.splitlines()[-1] == anew.stderr.splitlines()[-1]
        assert len(forked.stderr.splitlines()) == 2 or end
