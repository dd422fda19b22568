"""The program `scribe-node`, as somebody at a terminal meets it."""

import re
import subprocess
import sys
from pathlib import Path

from appliance.cli.init import initialise_local

PROGRAM = str(Path(sys.executable).with_name("scribe-node"))


def test_a_node_that_cannot_start_says_why_on_the_terminal_and_in_its_log(tmp_path: Path) -> None:
    config = initialise_local(tmp_path / ".scribe", base_port=18_001).configs[0]
    config.write_text(re.sub("cluster_id = .*", 'cluster_id = ""', config.read_text()))
    ended = subprocess.run([PROGRAM, "--config", str(config)], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(r"error: .*data is empty and node.cluster_id is not set: .*\n", ended.stderr)
    (log,) = (config.parent / "log").glob("*.log")
    assert '"event.action":"node.failed"' in log.read_text()
