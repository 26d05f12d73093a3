"""An address that only counts who comes."""

import socket
import threading


class Visitors:
    """Takes connections at an address and hangs up."""

    def __init__(self, address):
        self.count = 0
        self.listener = socket.create_server(address)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            visitor, _ = self.listener.accept()
            self.count += 1
            visitor.close()
