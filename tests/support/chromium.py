"""Debian's Chromium, for tests that look at a page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from tests.support.servers import report

__all__ = ["chromium"]


@contextmanager
def chromium(*hosts: str) -> Iterator[Browser]:
    """Start it, or skip the test without it.

    :param hosts: other names of this machine.
    """
    program = os.environ.get("TEST_CHROMIUM") or shutil.which("chromium")
    if not program:
        report.skip_without("Chromium", "no program chromium on this machine")
    rules = ", ".join(f"MAP {host} 127.0.0.1" for host in hosts)
    with sync_playwright() as playwright:
        # In a container, as root, its sandbox cannot be had.
        words = ["--no-sandbox", f"--host-resolver-rules={rules}"]
        browser = playwright.chromium.launch(executable_path=program, args=words)
        report.used("Chromium", browser.version, str(program))
        yield browser
        browser.close()
