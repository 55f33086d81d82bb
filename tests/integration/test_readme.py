"""What the README shows runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_attach_example_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(tmp_path / "example.py")],
        capture_output=True,
        text=True,
        cwd=README.parent,
        env={"PYTHONPATH": str(README.parent), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "mixer-shuffled" in result.stdout


def test_commands_in_the_readme_exist():
    text = README.read_text(encoding="utf-8")
    helped = subprocess.run(
        [sys.executable, "-m", "mixer_plugin.cli", "--help"], capture_output=True, text=True
    ).stdout
    named = set(re.findall(r"mixer-plugin (\w+)", text))
    assert {"table3", "evaluate", "synth", "doctor", "list"} == named
    assert all(name in helped for name in named)
    targets = set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets == {"demo", "test"}
    assert all(f"\n{target}:" in makefile for target in targets)
