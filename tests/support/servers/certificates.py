"""A certificate authority of a test's own, and what it signs."""

from pathlib import Path
from typing import NamedTuple

from tests.support.servers.process import find_program, run

KIND = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """The files of a certificate and of its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority whose certificates and keys are in a folder; needs the program openssl.

    :raises ServerMissing: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._openssl = find_program("openssl")
        self._folder = folder
        folder.mkdir()
        self._own = Pair(folder / "authority.crt", folder / "authority.key")
        subject = ("-x509", "-subj", "/CN=a test's authority")
        # Without these Python 3.13 does not take it for an authority.
        uses = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        self._run(
            "req", *subject, *uses, *KIND, "-keyout", self._own.key, "-out", self.certificate
        )

    @property
    def certificate(self) -> Path:
        """Give the file of its own certificate, by which to know what it has signed."""
        return self._own.certificate

    def sign(self, file: str, name: str, *, host: str = "IP:127.0.0.1", days: int = 9) -> Pair:
        """Make a key, and sign a certificate for a common name and a host.

        :param days: for how long it holds; negative: it has expired.
        """
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        request = self._folder / f"{file}.csr"
        names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
        self._run("req", *names, *KIND, "-keyout", pair.key, "-out", request)
        signed_by = ("-CA", self.certificate, "-CAkey", self._own.key, "-CAcreateserial")
        times = ("-days", str(days), "-copy_extensions", "copy")
        self._run("x509", "-req", "-in", request, *signed_by, *times, "-out", pair.certificate)
        pair.key.chmod(0o600)
        return pair

    def _run(self, *words: str | Path) -> None:
        run(self._openssl, *words)
