"""Starts a program as systemd would that listens at the lock's port for it.  activate.py COMMAND…"""

import os
import socket
import sys

listener = socket.create_server(("127.0.0.1", 169))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.execvpe(sys.argv[1], sys.argv[1:], os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "lock"})
