# What the scripts of the walk share: starting and stopping the VM's services, and saying what was checked.
# shellcheck shell=bash disable=SC2154 # account, container, subscription: exported by `vm`

# as USER COMMAND…: runs COMMAND as USER, with that user's groups and home and no capability.
as() {
    local user=$1 home
    shift
    home=$(getent passwd "$user" | cut -d: -f6)
    HOME=$home setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all -- "$@"
}

# answering NAME COMMAND…: waits until COMMAND succeeds against the service NAME; fails at once when that has ended.
answering() {
    local pid deadline=$((SECONDS + 60))
    pid=$(cat "/run/vm/$1.pid")
    until "${@:2}" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || { echo "$1 has ended" >&2; return 1; }
        [ "$SECONDS" -lt "$deadline" ] || { echo "$1 does not answer: ${*:2}" >&2; return 1; }
        sleep 0.1
    done
}

# eventually SECONDS COMMAND…: runs COMMAND until it succeeds, for at most that long.
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "not within the time: $*" >&2; return 1; }
        sleep 0.1
    done
}

service() { # NAME COMMAND…: starts COMMAND in the background; its output goes to /run/vm/NAME.log
    local name=$1
    shift
    "$@" >>"/run/vm/$name.log" 2>&1 9>&- &
    echo $! >"/run/vm/$name.pid"
}

stop() { # NAME: ends a service started by `service`, and waits for its end
    local pid
    pid=$(cat "/run/vm/$1.pid")
    kill "$pid"
    eventually 30 eval "! kill -0 $pid"
}

start_emulator() {
    # shellcheck disable=SC2086 # the options are words
    service emulator msi-emulator serve --listen 169.254.169.254:80 --any-address \
        --storage-account "$account=$account_key" ${EMULATOR_OPTIONS:-}
    answering emulator curl --silent http://169.254.169.254/
}

# The SDK may speak a newer version of the protocol than Azurite knows; the requests of the walk are the same in both.
start_azurite() {
    AZURITE_ACCOUNTS="$account:$account_key" service azurite node \
        "${MSI_TEST_CACHE:-/var/tmp/msi-tokend-test}/azurite/node_modules/azurite/dist/src/blob/main.js" \
        --blobHost 127.0.0.1 --blobPort 443 --location /run/vm/blobs --silent --disableTelemetry --skipApiVersionCheck \
        --oauth basic --cert /run/vm/tls/server.pem --key /run/vm/tls/server.key
    answering azurite curl --silent "https://$account.blob.core.windows.net/"
}

start_arm() {
    service arm "${SDK_PYTHON}" "$programs/arm.py" 127.0.0.2 443 /run/vm/tls/server.pem /run/vm/tls/server.key \
        169.254.169.254 "$subscription"
    answering arm curl --silent https://management.azure.com/
}

start_daemon() {
    install -d -o msi-tokend -g msi-tokend /run/msi-tokend
    install -m 644 /dev/stdin /run/vm/config.toml <<<'[upstream]
endpoint = "http://169.254.169.254/metadata/identity/oauth2/token"
'
    [ -n "${LOCK:-}" ] || printf '[listen]\nsdk = "127.0.0.1:40343"\n' >>/run/vm/config.toml
    cat /run/vm/rules.toml >>/run/vm/config.toml
    if [ -n "${LOCK:-}" ]; then
        start_locked
    else
        service daemon as msi-tokend msi-tokend --config /run/vm/config.toml
    fi
    answering daemon curl --silent --fail --unix-socket /run/msi-tokend/msi-tokend.sock http://localhost/live
}

# As systemd starts it where the lock is on.
start_locked() {
    # A VM has an address of its own.
    ip address add 10.0.0.4/32 dev lo
    ip route replace table local local 169.254.169.254 dev lo src 10.0.0.4
    mkdir /run/msi-tokend-lock
    printf '[lock]\nmode = "%s"\n' "$LOCK" >>/run/vm/config.toml
    msi-token lock load --config /run/vm/config.toml >/run/vm/lock.log 2>&1
    service daemon "$SDK_PYTHON" "$programs/activate.py" setpriv --reuid msi-tokend --regid msi-tokend --init-groups \
        --inh-caps=-all -- msi-tokend --config /run/vm/config.toml
}

# What the portal did in the tutorial: the account's owner makes a container and puts a file into it.
make_first_blob() {
    echo 'Hello world! :)' >hello.txt
    az storage container create --account-name "$account" --name "$container" --account-key "$account_key"
    az storage blob upload --account-name "$account" --container-name "$container" --name hello.txt --file hello.txt \
        --account-key "$account_key" --no-progress
}

# with_sdk_env USER COMMAND…: as `as`, with the variables of the daemon's file, as systemd's EnvironmentFile= sets them.
with_sdk_env() {
    local variables
    mapfile -t variables < <(grep -v '^#' /run/msi-tokend/sdk.env)
    as "$1" env "${variables[@]}" "${@:2}"
}

# nobody_else_asked: every request that the endpoint saw came from the daemon.
nobody_else_asked() {
    curl --silent http://169.254.169.254/emulator/requests | jq --exit-status \
        '.count > 0 and ([.requests[].headers["user-agent"] | select(startswith("msi-tokend/") | not)] | . == [] or error(tostring))'
}

# check WHAT COMMAND…: one line of result; the command's own words only when it fails.
check() {
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "ok   $what"
    else
        echo "FAIL $what"
        echo "     ${said//$'\n'/$'\n'     }"
    fi
}
