"""`systemctl reload`: a good file takes effect, anything else fails where the administrator sees it."""

from checks import wait_for
from service import active, configure, get, installed, main_pid

UNIT = "msi-tokend.service"
EXTRA = "/etc/msi-tokend/conf.d/50-extra.toml"


def reload(machine):
    return machine.try_("systemctl", "reload", UNIT)


def expect(machine, *words):
    """Waits for a record of the daemon's own that has all the words in it."""
    def said():
        records = machine.journal(f"_SYSTEMD_UNIT={UNIT}", "SYSLOG_IDENTIFIER=msi-tokend")
        return any(all(word in record["MESSAGE"] for word in words) for record in records)

    wait_for(f"{words} in the journal", said)


def test_good(machine):
    """a reload with a new rule succeeds, and the rule is in effect when systemctl returns, in the same process"""
    installed(machine)
    pid = main_pid(machine)
    assert get(machine, "stranger").returncode == 77
    configure(machine, "50-extra", '[[allow]]\nusers = ["stranger"]\n')
    done = reload(machine)
    assert done.returncode == 0, done
    assert get(machine, "stranger").returncode == 0
    assert main_pid(machine) == pid


def test_bad(machine):
    """a reload with an unknown key fails, the journal names file and key, and the old rules stay in effect"""
    configure(machine, "50-extra", '[limits]\nmax_conections = 5\n')
    done = reload(machine)
    assert done.returncode != 0, done
    expect(machine, EXTRA, "max_conections")
    assert active(machine) and get(machine, "stranger").returncode == 0


def test_syntax(machine):
    """so does one with a syntax error"""
    configure(machine, "50-extra", "[[allow]\n")
    assert reload(machine).returncode != 0
    expect(machine, EXTRA, "array table")
    assert active(machine) and get(machine, "stranger").returncode == 0


def test_listen(machine):
    """a reload that would change [listen] fails and says that a restart is needed"""
    configure(machine, "50-extra", '[listen]\nmonitor = "127.0.0.1:9464"\n')
    assert reload(machine).returncode != 0
    expect(machine, "restart needed")
    assert active(machine) and get(machine, "stranger").returncode == 0


def test_missing_name(machine):
    """a user who does not exist is a warning: the reload succeeds and takes the rules there are"""
    configure(machine, "50-extra", '[[allow]]\nusers = ["nobody-has-this-name"]\n')
    assert reload(machine).returncode == 0
    expect(machine, "nobody-has-this-name")
    assert get(machine, "stranger").returncode == 77


def doctor(machine, code, *words, user=None):
    """What doctor says of it, which must have all the words in it."""
    done = machine.try_("msi-token", "doctor", user=user)
    said = " ".join(done.stdout.split())
    assert done.returncode == code and all(word in said for word in words), done


def test_doctor(machine):
    """doctor says what is wrong with the files, as the service's user sees them, also where the service cannot start"""
    configure(machine, "50-extra", '[[allow]]\nusers = ["stranger"]\n')
    doctor(machine, 78, "has changed since the daemon loaded it", "systemctl reload msi-tokend")
    doctor(machine, 78, "has changed since the daemon loaded it", user="stranger")
    assert reload(machine).returncode == 0
    doctor(machine, 0, "/etc/msi-tokend/config.toml and its conf.d are in effect")
    machine.run("chmod", "0640", EXTRA)
    doctor(machine, 78, f"WRONG {EXTRA}", "cannot be read by msi-tokend (", f"chmod o+r {EXTRA}", "its next start would fail")
    doctor(machine, 0, f"note {EXTRA}", "cannot be read by stranger (", "sudo msi-token doctor", user="stranger")
    machine.run("chmod", "0644", EXTRA)
    configure(machine, "50-extra", '[limits]\nmax_conections = 5\n')
    machine.try_("systemctl", "restart", UNIT)
    doctor(machine, 69, f"{EXTRA}:2:", "max_connections", "correct what is said below")
    machine.run("rm", EXTRA)
    machine.run("systemctl", "restart", UNIT)
    doctor(machine, 0, "are in effect")


def test_second(machine):
    """msi-tokend typed while the service runs, as root or as another user, says that one is serving"""
    for user in [None, "member", "stranger"]:
        done = machine.try_("msi-tokend", user=user)
        assert done.returncode == 69 and "already serving" in done.stderr and "chown" not in done.stderr, done
    assert active(machine)


def test_hup(machine):
    """a SIGHUP alone reloads too"""
    configure(machine, "50-extra", '[[allow]]\nusers = ["stranger"]\n')
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=HUP", UNIT)
    wait_for("the new rule to be in effect", lambda: get(machine, "stranger").returncode == 0)
