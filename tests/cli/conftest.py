"""The command, and an app's ini file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyramid_dbpool.cli import asking
from pyramid_dbpool.cli.pdbpool import main
from tests.cli.said import Run, Said


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes take as long as on a busy machine; a test of silence has its own limit."""
    monkeypatch.setattr(asking, "TIMEOUT", 30.0)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def run(*args: object) -> Said:
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as exit:
            code = int(str(exit.code))
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write an ini file for an app that is installed."""
    installed = tmp_path / "site"
    info = installed / "pdbpool_test_app-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pdbpool_test_app\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[paste.app_factory]\nmain = pdbpool_test_app:main\n")
    (installed / "pdbpool_test_app.py").write_text("def main(config, **settings): ...\n")
    monkeypatch.syspath_prepend(installed)

    def write(*lines: str, section: str = "app:main") -> Path:
        file = tmp_path / "app.ini"
        file.write_text("\n".join([f"[{section}]", "use = egg:pdbpool_test_app", *lines, ""]))
        return file

    return write
