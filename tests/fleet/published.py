"""The signed repository, and the machine on which a web server shows it."""

from own_package import raised
from test_install import SERVER, Repository

KEY = "fleet@example.invalid"


class Published(Repository):
    def __init__(self, machine, package, directory):
        super().__init__(directory, package, KEY, None)
        self.machine = machine
        # There is no way to Debian from here.
        machine.run("sh", "-c", "rm --force /etc/apt/sources.list /etc/apt/sources.list.d/*")
        machine.write("/etc/systemd/system/repository.service", f"{SERVER}[Install]\nWantedBy=multi-user.target\n")
        self.publish(machine)
        machine.run("systemctl", "enable", "--now", "repository.service")

    @property
    def public_key(self):
        return self.directory / "msi-tokend.asc"

    def release(self, suffix, change=lambda tree: None):
        """Shows the machine a package with a higher version, and with a change of its files."""
        raised(self.package, suffix, self.package.parent, change)
        self.sign(KEY)
        self.publish(self.machine)
