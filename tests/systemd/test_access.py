"""Rules by unit, with callers that systemd itself has started."""

from service import RESOURCE, configure, get, installed

GET = ("/usr/bin/msi-token", "get", "--resource", RESOURCE)


def in_unit(machine, unit, *options):
    return machine.try_("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--uid=stranger",
                        f"--unit={unit}", *options, *GET)


def test_unit(machine):
    """a service that a rule names gets a token, another of the same user does not and is told why"""
    installed(machine)
    configure(machine, "50-units", '[[allow]]\nunits = ["nightly-backup.service", "worker@7.service"]\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    done = in_unit(machine, "nightly-backup.service")
    assert done.returncode == 0 and done.stdout.count(".") == 2, done
    done = in_unit(machine, "daily-backup.service")
    assert done.returncode == 77 and "rule" in done.stderr, done


def test_audit(machine):
    """both are in the journal, once, with who, what and why"""
    for unit, verdict in [("nightly-backup.service", "allowed"), ("daily-backup.service", "denied")]:
        records = machine.journal(f"VERDICT={verdict}", f"UNIT={unit}")
        assert len(records) == 1, records
        record = records[0]
        assert record["UID"] == machine.run("id", "--user", "stranger") and int(record["PID"]) > 1, record
        assert (record["RESOURCE"], record["IDENTITY"], record["OUTCOME"]) == (
            RESOURCE, "default", {"allowed": "ok", "denied": "denied"}[verdict]), record
        if verdict == "allowed":
            assert record["RULE"].startswith("/etc/msi-tokend/conf.d/50-units.toml:") and record["UTI"], record
        else:
            assert record["MESSAGE_ID"] == "c97820b49b15429d90f38a2696fab94d" and "UTI" not in record, record


def test_written_unit(machine):
    """so does a unit file's service, and not its neighbour"""
    for name in ["nightly-backup", "other"]:
        machine.write(f"/run/systemd/system/{name}.service",
                      f"[Service]\nType=oneshot\nUser=stranger\nExecStart={' '.join(GET)}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "nightly-backup.service")
    assert machine.try_("systemctl", "start", "other.service").returncode != 0
    assert machine.show("other.service", "ExecMainStatus")["ExecMainStatus"] == "77"


def test_nested_slice(machine):
    """a templated unit under nested slices is known by its own name"""
    for unit, expected in [("worker@7.service", 0), ("worker@8.service", 77)]:
        done = in_unit(machine, unit, "--slice=batch-nightly.slice")
        assert done.returncode == expected, (unit, done)


def test_look_alike(machine):
    """a user's own unit of the same name is not that unit"""
    uid = machine.run("id", "--user", "stranger")
    machine.write("/home/stranger/.config/systemd/user/nightly-backup.service",
                  f"[Service]\nType=oneshot\nExecStart={' '.join(GET)}\n")
    machine.run("systemctl", "start", f"user@{uid}.service")

    def exit_code():
        systemctl = ("env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user")
        machine.try_(*systemctl, "start", "nightly-backup.service", user="stranger")
        return machine.run(*systemctl, "show", "--property=ExecMainStatus", "--value", "nightly-backup.service", user="stranger")

    assert exit_code() == "77"
    configure(machine, "50-units", f'[[allow]]\nunits = ["user@{uid}.service"]\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    assert exit_code() == "0"


def test_newcomer(machine):
    """an account that was made a moment ago has its name in the refusal and in the journal"""
    for user in ["newcomer1", "newcomer2", "newcomer3"]:
        ask = f"useradd {user} && exec setpriv --reuid={user} --regid={user} --clear-groups {' '.join(GET)}"
        refused = machine.try_("sh", "-c", ask)
        assert refused.returncode == 77 and f"No rule allows {user} (" in refused.stderr, refused
        record, = machine.journal("OUTCOME=denied", f"UID={machine.run('id', '--user', user)}")
        assert f"refused to {user} (" in record["MESSAGE"], record


def test_nothing_missing(machine):
    """the sandbox keeps nothing from the daemon that rules, descriptors and callers' units need"""
    text = "\n".join(str(record["MESSAGE"]) for record in machine.journal("-u", "msi-tokend.service"))
    for complaint in ["match nobody", "descriptors", "no connection can be accepted"]:
        assert complaint not in text, text


def test_outside(machine):
    """a caller outside any unit has none"""
    configure(machine, "50-units", '[[allow]]\nunits = ["nightly-backup.service"]\n')
    machine.run("systemctl", "reload", "msi-tokend.service")
    assert get(machine, "stranger").returncode == 77
