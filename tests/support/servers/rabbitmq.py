"""A private RabbitMQ broker."""

import contextlib
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyramid_dbpool.embedded import lifeline
from tests.support.servers.process import ServerProcess, find_program


class RabbitMQ(ServerProcess):
    """RabbitMQ with its own port mapper, so that no daemon of Erlang's is left behind.

    Everybody on the machine can reach it, so it has one user, whose password is drawn at random.
    """

    name = "RabbitMQ"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = find_program("/usr/lib/rabbitmq/bin/rabbitmq-server")
        self.mapper_program = find_program("epmd")
        self.password = secrets.token_hex(16)
        self.mapper: subprocess.Popen[bytes] | None = None
        self.mapper_port, self.distribution_port = self.new_port(), self.new_port()

    @property
    def version(self) -> str:
        """Give the broker's version."""
        folders = Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
        return next((folder.name.partition("-")[2] for folder in folders), "of unknown version")

    def start(self) -> None:
        """Start the port mapper and the broker."""
        if self.mapper is None:
            place = ["-address", "127.0.0.1", "-port", str(self.mapper_port)]
            command = lifeline([str(self.mapper_program), *place])
            self.mapper = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        super().start()

    def stop(self) -> None:
        """Stop the broker and its port mapper."""
        super().stop()
        if self.mapper is not None:
            self.mapper.kill()
            self.mapper.wait()
            self.mapper = None

    def prepare(self) -> None:
        """Write the configuration."""
        configuration = Path(self.folder, "rabbitmq.conf")
        configuration.touch(mode=0o600)
        lines = ["log.console = true", "default_user = test", f"default_pass = {self.password}"]
        configuration.write_text("\n".join(lines) + "\n")
        Path(self.folder, "enabled_plugins").write_text("[].\n")

    def command(self) -> Sequence[str | Path]:
        """Give the command of the broker; without input Erlang starts no shell."""
        return [self.program, "-noinput"]

    def environment(self) -> Mapping[str, str]:
        """Keep everything of the broker's in its folder and at 127.0.0.1."""
        return {
            # The Erlang cookie is made there.
            "HOME": str(self.folder),
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "server.pid"),
        }

    def answers(self) -> bool:
        """Tell whether the broker greets a client, and not merely accepts it."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as client,
        ):
            client.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(client.recv(8))
        return False

    def url(self) -> str:
        """Give the URL for kombu, Celery and amqp."""
        return f"amqp://test:{self.password}@127.0.0.1:{self.port}//"


class OfferedRabbitMQ:
    """A broker that runs already."""

    def __init__(self, address: str) -> None:
        self.address = address

    def url(self) -> str:
        """Give the URL for kombu, Celery and amqp."""
        return self.address
