"""Debian's packages, Python's and Node's."""

import contextlib
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
    """An environment with just these packages, each `NAME==VERSION`. It is made with Debian's own interpreter, which other
    users can run."""
    with _once(venv, requirements) as missing:
        if missing:
            apt_install("python3-venv")
            subprocess.run(["/usr/bin/python3", "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True)


def npm_install(directory, packages):
    """A directory with just these packages, each `NAME@VERSION`."""
    with _once(directory, packages) as missing:
        if missing:
            if not shutil.which("npm"):
                apt_install("nodejs", "npm")
            npm = ["npm", "install", "--prefix", directory, "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run([*npm, *packages], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _once(directory, packages):
    """Whether they are to be installed there; an install that was broken off or has other versions is made anew."""
    stamp, wanted = directory / ".installed", "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        yield False
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    yield True
    stamp.write_text(wanted)
