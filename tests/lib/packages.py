"""Debian's packages, and Python's."""

import os
import shutil
import subprocess


def apt_install(*packages):
    """Installs those of the packages that this machine does not have."""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *packages]
    listed = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
    missing = [package for package in packages if f"{package} installed" not in listed]
    if not missing:
        return
    options = {"stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
    apt = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--no-install-recommends", *missing]
    # A bare machine may have no package lists yet, or old ones.
    if subprocess.run(install, stderr=subprocess.DEVNULL, **options).returncode != 0:
        subprocess.run([*apt, "update"], check=True, **options)
        subprocess.run(install, check=True, **options)


def python_install(venv, requirements):
    """An environment with just these packages, each `NAME==VERSION`; quick where it is there. It is made with Debian's own
    interpreter, which other users can run."""
    stamp, wanted = venv / ".installed", "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(venv, ignore_errors=True)
    apt_install("python3-venv")
    subprocess.run(["/usr/bin/python3", "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)
    stamp.write_text(wanted)
