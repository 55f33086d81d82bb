"""``mixer-plugin completion``: what bash offers, asked of a bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixer_plugin.cli import COMMANDS, main

ASK = """
set -u
source "$1"
set +u
[[ "$(complete -p mixer-plugin)" =~ -F\\ ([^ ]+) ]] && ask=${BASH_REMATCH[1]}
shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
COMPREPLY=()
$ask mixer-plugin "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    command = [sys.executable, "-m", "mixer_plugin.cli", "completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    path = tmp_path_factory.mktemp("completion") / "mixer-plugin.bash"
    path.write_text(done.stdout)
    return path


def offered(script: Path, *words: str) -> set[str]:
    command = ["bash", "--norc", "-c", ASK, "bash", str(script), "mixer-plugin", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_offers_commands_options_and_names(script: Path) -> None:
    assert offered(script, "") >= {*COMMANDS}
    assert offered(script, "ev") == {"evaluate"}
    assert offered(script, "store", "") >= {"add", "remove", "compact", "info"}
    assert offered(script, "store", "add", "--up") == {"--upsert"}
    assert offered(script, "evaluate", "--pro") == {"--protocol"}
    protocols = offered(script, "evaluate", "--protocol", "sysu/all")
    assert protocols == {"sysu/all/single", "sysu/all/multi", "sysu/all/single@ye"}
    assert offered(script, "table3", "--config", "paper/sysu-saai") == {
        *("paper/sysu-saai", "paper/sysu-saai-base"),
    }
    assert offered(script, "bench", "figure-") == {"figure-b1", "figure-b2"}
    assert offered(script, "check", "--adapter", "mp") == {"mpanet"}
    assert offered(script, "completion", "") >= {"bash", "zsh"}
    # Anything else may be a file.
    (script.parent / "own.npz").touch()
    assert offered(script, "evaluate", "ow") == {"own.npz"}
    assert offered(script, "evaluate", "x.npz", "--against", "ow") == {"own.npz"}


def test_zsh_has_a_script(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "zsh"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#compdef mixer-plugin")
    assert "sysu/indoor/single@ye" in printed


def test_without_shtab_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    printed = capsys.readouterr()
    assert "mixer-plugin[completion]" in printed.err
    assert printed.out == ""
