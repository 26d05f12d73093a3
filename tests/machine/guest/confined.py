"""A program with an AppArmor profile: docs/troubleshooting.md, "The program that asks is confined"."""

import shutil
from pathlib import Path

from inside import SOCKET, as_user, curl, run, status, try_

PROGRAM = "/usr/local/bin/confined-curl"
PROFILE = Path("/etc/apparmor.d/usr.local.bin.confined-curl")


def test_apparmor_profile():
    """a profile that leaves the socket out keeps nobody from it: AppArmor does not look at Unix sockets on this kernel"""
    shutil.copy("/usr/bin/curl", PROGRAM)
    PROFILE.write_text(f"""
#include <tunables/global>
{PROGRAM} {{
  #include <abstractions/base>
  #include <abstractions/nameservice>
  #include <abstractions/openssl>
  {PROGRAM} mr,
}}
""")
    readable = ["setpriv", "--reuid=anna", "--regid=anna", "--init-groups", PROGRAM, "--silent", "file:///etc/fstab"]
    assert try_(*readable).returncode == 0
    run("apparmor_parser", "--replace", PROFILE)
    assert try_(*readable).returncode != 0, "the profile holds"
    assert status(as_user("anna", PROGRAM, *curl(SOCKET)[1:])) == 200
    run("apparmor_parser", "--remove", PROFILE)
