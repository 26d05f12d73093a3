"""A certificate authority of the test's own, and a server's certificate."""

import ssl
import subprocess


class Authority:
    """`bundle` is what clients trust; the certificate is for all of `names`."""

    def __init__(self, directory, names):
        self.directory = directory
        self.bundle, self.certificate, self.key = (directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 1,
                      "-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", self.bundle)
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test",
                      "-keyout", self.key, "-out", "cert.csr")
        extensions = directory / "names"
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))
        self._openssl("x509", "-req", "-in", "cert.csr", "-CA", self.bundle, "-CAkey", "ca.key", "-days", 1,
                      "-extfile", extensions, "-out", self.certificate)

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=self.directory)

    def wrap(self, listener, protocols=()):
        """The listener with TLS, whose handshakes are made by those who read; `protocols` are offered by ALPN."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(protocols)
        context.load_cert_chain(self.certificate, self.key)
        return context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
