"""A private Prometheus that scrapes an app, and what it says."""

import http.client
import json
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.servers.process import ServerProcess, find_program, run

# How often it scrapes and looks at its rules, in seconds.
INTERVAL = 1


class Prometheus(ServerProcess):
    """Prometheus with one app to scrape, each second, and a file of rules."""

    name = "Prometheus"

    def __init__(self, folder: Path, target: int, path: str, rules: str = "") -> None:
        super().__init__(folder)
        self.program = find_program("prometheus")
        self.target, self.path, self.rules = target, path, rules

    @property
    def version(self) -> str:
        """Give the program's version."""
        return run(self.program, "--version").split()[2]

    def prepare(self) -> None:
        """Write its configuration and the rules."""
        rules = self.folder / "rules.yml"
        rules.write_text(self.rules or "groups: []")
        interval = f"{INTERVAL}s"
        scraped = {
            "job_name": "notes",
            "metrics_path": self.path,
            "static_configs": [{"targets": [f"127.0.0.1:{self.target}"]}],
        }
        configuration = {
            "global": {
                "scrape_interval": interval,
                "scrape_timeout": interval,
                "evaluation_interval": interval,
            },
            "rule_files": [str(rules)],
            "scrape_configs": [scraped],
        }
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(configuration))

    def command(self) -> Sequence[str | Path]:
        """Give the command line."""
        return [
            self.program,
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def answers(self) -> bool:
        """Tell whether it has begun to work."""
        with suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).close()
            return True
        return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for what an expression is now: its series, each with `metric` and `value`."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def alerts(self, state: str = "firing") -> set[str]:
        """Name the alerts that are in a state now."""
        found = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in found if each["state"] == state}

    def _get(self, what: str, **words: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]
