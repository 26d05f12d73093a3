# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_msi_token_global_optspecs
    string join \n socket= h/help V/version
end

function __fish_msi_token_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_msi_token_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_msi_token_using_subcommand
    set -l cmd (__fish_msi_token_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c msi-token -n "__fish_msi_token_needs_command" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_needs_command" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_needs_command" -s V -l version -d 'Print version'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "get" -d 'Print a token'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "refresh" -d 'Have a new token fetched, because a service refused the one there is, and print it'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "keep" -d 'Keep tokens in files, for programs that read a token from a file'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "git-credential" -d 'Speak git\'s protocol for credential helpers, for Azure DevOps over https'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "exec" -d 'Become another program, with the environment that leads it to the daemon\'s loopback listener'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "sdk-env" -d 'Print the environment for programs on the daemon\'s loopback listener, as sdk.env has it'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "status" -d 'List what is cached; never a token'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "health" -d 'One line for a monitoring system, as its plugin; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "explain" -d 'Judge the configuration files: which rule allows, or which part of each rule does not match'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "suggest" -d 'Print the rules that are missing, by what the lock observed, as the journal has it'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "doctor" -d 'Find out what is wrong and say what to do'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "lock" -d 'The firewall rules that lead to the daemon what programs send to the metadata service'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "metrics" -d 'Write the daemon\'s metrics to a file for the textfile collector of `node_exporter`'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "reload" -d 'Have the daemon read its configuration again. For root and the daemon\'s own user'
complete -c msi-token -n "__fish_msi_token_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l resource -d 'The resource that the token is for, byte for byte, such as `https://storage.azure.com/`; the last slash counts' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l scope -d 'The resource as an SDK\'s scope, such as `https://storage.azure.com/.default`' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l client-id -d 'The identity\'s client id (application id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l object-id -d 'The identity\'s object id (principal id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l resource-id -d 'The identity\'s ARM resource id' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l output -d 'In which form' -r -f -a "token\t'The bare token'
json\t'The daemon\'s whole answer'
header\t'`Authorization: Bearer …`, for `curl -H @<(msi-token get … --output header)`'
kubernetes\t'An `ExecCredential`, as kubectl reads it from an exec plugin'
gcp\t'As Google\'s libraries read it from an executable'
claims\t'What the token says, in readable JSON: its claims and times, never the token itself'"
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l wait -d 'Give up after so long; until then try again where the daemon cannot be reached or says "try later". Without it there is one try, which lasts as long as the daemon holds its callers (`limits.caller_wait`)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand get" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l resource -d 'The resource that the token is for, byte for byte, such as `https://storage.azure.com/`; the last slash counts' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l scope -d 'The resource as an SDK\'s scope, such as `https://storage.azure.com/.default`' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l client-id -d 'The identity\'s client id (application id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l object-id -d 'The identity\'s object id (principal id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l resource-id -d 'The identity\'s ARM resource id' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l output -d 'In which form' -r -f -a "token\t'The bare token'
json\t'The daemon\'s whole answer'
header\t'`Authorization: Bearer …`, for `curl -H @<(msi-token get … --output header)`'
kubernetes\t'An `ExecCredential`, as kubectl reads it from an exec plugin'
gcp\t'As Google\'s libraries read it from an executable'
claims\t'What the token says, in readable JSON: its claims and times, never the token itself'"
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l wait -d 'Give up after so long; until then try again where the daemon cannot be reached or says "try later". Without it there is one try, which lasts as long as the daemon holds its callers (`limits.caller_wait`)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand refresh" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand keep" -l directory -d 'Where the files are kept; without it in the `RuntimeDirectory=` of the systemd unit' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand keep" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand keep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand git-credential" -l client-id -d 'The identity\'s client id (application id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand git-credential" -l object-id -d 'The identity\'s object id (principal id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand git-credential" -l resource-id -d 'The identity\'s ARM resource id' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand git-credential" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand git-credential" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand exec" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand exec" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand sdk-env" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand sdk-env" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand status" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand status" -l json -d 'Print the daemon\'s whole answer as JSON, in the form that msi-token(1) describes'
complete -c msi-token -n "__fish_msi_token_using_subcommand status" -l watch -d 'Print it every two seconds, until interrupted'
complete -c msi-token -n "__fish_msi_token_using_subcommand status" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand health" -l warning -d 'A token that lives shorter than this is a WARNING' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand health" -l critical -d 'A warm token that lives shorter than this is CRITICAL' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand health" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand health" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l config -d 'The configuration file; conf.d/*.toml beside it is read after it' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l uid -d 'Who calls: a uid, or a user\'s name. Without it and without --pid: this process' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l gid -d 'A group the caller is in, by id or name; may be repeated. Without any: the groups that its account has' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l unit -d 'The systemd unit that the caller runs in, such as nightly-backup.service' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l pid -d 'A process that calls, with its user, groups and unit' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l listener -d 'Where it calls' -r -f -a "socket\t'The Unix socket: groups are those of the process'
sdk\t'The loopback listener: groups are those of the account'
lock\t'The lock\'s listener, as the loopback listener'"
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l resource -d 'The resource that the token is for, byte for byte, such as `https://storage.azure.com/`; the last slash counts' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l scope -d 'The resource as an SDK\'s scope, such as `https://storage.azure.com/.default`' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l client-id -d 'The identity\'s client id (application id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l object-id -d 'The identity\'s object id (principal id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l resource-id -d 'The identity\'s ARM resource id' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand explain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand suggest" -l since -d 'How far back the journal is read' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand suggest" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand suggest" -l refused -d 'Also for what was refused, on any listener. That may be as it should be'
complete -c msi-token -n "__fish_msi_token_using_subcommand suggest" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l config -d 'The configuration file to judge, with conf.d/*.toml beside it. Without it: the service\'s, unless another daemon\'s socket is named' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l resource -d 'Also ask for this token' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l client-id -d 'The identity\'s client id (application id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l object-id -d 'The identity\'s object id (principal id)' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l resource-id -d 'The identity\'s ARM resource id' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -f -a "load" -d 'Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -f -a "status" -d 'Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -f -a "try" -d 'Switch the lock on for a while. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -f -a "enforce" -d 'Have the rules enforced, when it is known whom that denies what. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and not __fish_seen_subcommand_from load status try enforce help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from load" -l config -d 'The daemon\'s configuration file; conf.d/*.toml beside it is read after it' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from load" -l user -d 'Whom the daemon runs as' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from load" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from load" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from status" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from try" -l for -d 'For how long' -r -f
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from try" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from try" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from enforce" -l config -d 'The daemon\'s configuration file; the mode is written to conf.d/90-lock.toml beside it' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from enforce" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from enforce" -l force -d 'Whatever is missing: only say what'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from enforce" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from help" -f -a "load" -d 'Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from help" -f -a "status" -d 'Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from help" -f -a "try" -d 'Switch the lock on for a while. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from help" -f -a "enforce" -d 'Have the rules enforced, when it is known whom that denies what. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand lock; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c msi-token -n "__fish_msi_token_using_subcommand metrics" -l textfile -d 'The file, in the collector\'s directory; its name must end in .prom to be read there' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand metrics" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c msi-token -n "__fish_msi_token_using_subcommand reload" -l socket -d 'The daemon\'s socket; by default that of `MSI_TOKEND_SOCKET`, or else `/run/msi-tokend/msi-tokend.sock`' -r -F
complete -c msi-token -n "__fish_msi_token_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "get" -d 'Print a token'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "refresh" -d 'Have a new token fetched, because a service refused the one there is, and print it'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "keep" -d 'Keep tokens in files, for programs that read a token from a file'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "git-credential" -d 'Speak git\'s protocol for credential helpers, for Azure DevOps over https'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "exec" -d 'Become another program, with the environment that leads it to the daemon\'s loopback listener'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "sdk-env" -d 'Print the environment for programs on the daemon\'s loopback listener, as sdk.env has it'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "status" -d 'List what is cached; never a token'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "health" -d 'One line for a monitoring system, as its plugin; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "explain" -d 'Judge the configuration files: which rule allows, or which part of each rule does not match'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "suggest" -d 'Print the rules that are missing, by what the lock observed, as the journal has it'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "doctor" -d 'Find out what is wrong and say what to do'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "lock" -d 'The firewall rules that lead to the daemon what programs send to the metadata service'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "metrics" -d 'Write the daemon\'s metrics to a file for the textfile collector of `node_exporter`'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "reload" -d 'Have the daemon read its configuration again. For root and the daemon\'s own user'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and not __fish_seen_subcommand_from get refresh keep git-credential exec sdk-env status health explain suggest doctor lock metrics reload help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and __fish_seen_subcommand_from lock" -f -a "load" -d 'Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and __fish_seen_subcommand_from lock" -f -a "status" -d 'Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and __fish_seen_subcommand_from lock" -f -a "try" -d 'Switch the lock on for a while. For root'
complete -c msi-token -n "__fish_msi_token_using_subcommand help; and __fish_seen_subcommand_from lock" -f -a "enforce" -d 'Have the rules enforced, when it is known whom that denies what. For root'
