"""Parses Azure CLI command lines with the CLI's own command tables and argument parser, and goes no further.

Run with the interpreter of the CLI's installation. Standard input: one JSON array of words a line, without the `az`.
Prints one line for each, and exits with the number of those the CLI does not understand.

Nothing is validated against Azure, signed in or sent: the run is ended as soon as the words are parsed, and a socket
that is connected all the same raises an error.
"""

import contextlib
import io
import json
import os
import socket
import sys
import tempfile

scratch = tempfile.TemporaryDirectory(prefix="az-parse-")
os.environ["AZURE_CONFIG_DIR"] = scratch.name
os.environ["AZURE_CORE_COLLECT_TELEMETRY"] = "no"
os.environ["AZURE_EXTENSION_USE_DYNAMIC_INSTALL"] = "no"


def no_network(*_args, **_kwargs):
    raise OSError("this test has no network")


socket.socket.connect = no_network
socket.getaddrinfo = no_network

from azure.cli.core import get_default_cli  # noqa: E402  (after the network is gone)
from azure.cli.core.azclierror import AzCLIError  # noqa: E402
from azure.cli.core.commands import AzCliCommandInvoker  # noqa: E402


class Parsed(BaseException):
    """The words were understood. Not an `Exception`, which the CLI would report as its own failure."""


class OnlyParse(AzCliCommandInvoker):
    """The CLI's own invocation, up to the point where it would validate the arguments and run the command."""

    def _validation(self, parsed_ns):
        raise Parsed

    def _run_jobs(self, command_objects_list):
        raise AssertionError("a command was about to run")


def understood(words):
    """None, or what the CLI says against these words."""
    said = []
    AzCLIError.print_error = lambda error: said.append(error.error_msg)
    cli = get_default_cli()
    cli.invocation_cls = OnlyParse
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = cli.invoke(words)
        except Parsed:
            return None
        except SystemExit as stop:
            status = stop.code
    return " ".join(said) or f"exit status {status}"


def main():
    failed = 0
    for line in sys.stdin:
        words = json.loads(line)
        error = understood(words)
        print(f"{'ok  ' if error is None else 'FAIL'} az {' '.join(words)}")
        if error is not None:
            failed += 1
            print("     " + error.replace("\n", "\n     "))
    sys.exit(min(failed, 100))


if __name__ == "__main__":
    main()
