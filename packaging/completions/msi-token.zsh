#compdef msi-token

autoload -U is-at-least

_msi-token() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_msi-token_commands" \
"*::: :->msi-tokend" \
&& ret=0
    case $state in
    (msi-tokend)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:msi-token-command-$line[1]:"
        case $line[1] in
            (get)
_arguments "${_arguments_options[@]}" : \
'--resource=[The resource that the token is for, byte for byte, such as \`https\://storage.azure.com/\`; the last slash counts]:RESOURCE:' \
'--scope=[The resource as an SDK'\''s scope, such as \`https\://storage.azure.com/.default\`]:SCOPE:' \
'--client-id=[The identity'\''s client id (application id)]:ID:' \
'--object-id=[The identity'\''s object id (principal id)]:ID:' \
'--resource-id=[The identity'\''s ARM resource id]:ID:' \
'--output=[In which form]:OUTPUT:((token\:"The bare token"
json\:"The daemon'\''s whole answer"
header\:"\`Authorization\: Bearer …\`, for \`curl -H @<(msi-token get … --output header)\`"
kubernetes\:"An \`ExecCredential\`, as kubectl reads it from an exec plugin"
gcp\:"As Google'\''s libraries read it from an executable"
claims\:"What the token says, in readable JSON\: its claims and times, never the token itself"))' \
'--wait=[Give up after so long; until then try again where the daemon cannot be reached or says "try later". Without it there is one try, which lasts as long as the daemon holds its callers (\`limits.caller_wait\`)]:DURATION:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::named -- The resource, as with --resource:_default' \
&& ret=0
;;
(refresh)
_arguments "${_arguments_options[@]}" : \
'--resource=[The resource that the token is for, byte for byte, such as \`https\://storage.azure.com/\`; the last slash counts]:RESOURCE:' \
'--scope=[The resource as an SDK'\''s scope, such as \`https\://storage.azure.com/.default\`]:SCOPE:' \
'--client-id=[The identity'\''s client id (application id)]:ID:' \
'--object-id=[The identity'\''s object id (principal id)]:ID:' \
'--resource-id=[The identity'\''s ARM resource id]:ID:' \
'--output=[In which form]:OUTPUT:((token\:"The bare token"
json\:"The daemon'\''s whole answer"
header\:"\`Authorization\: Bearer …\`, for \`curl -H @<(msi-token get … --output header)\`"
kubernetes\:"An \`ExecCredential\`, as kubectl reads it from an exec plugin"
gcp\:"As Google'\''s libraries read it from an executable"
claims\:"What the token says, in readable JSON\: its claims and times, never the token itself"))' \
'--wait=[Give up after so long; until then try again where the daemon cannot be reached or says "try later". Without it there is one try, which lasts as long as the daemon holds its callers (\`limits.caller_wait\`)]:DURATION:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::named -- The resource, as with --resource:_default' \
&& ret=0
;;
(keep)
_arguments "${_arguments_options[@]}" : \
'--directory=[Where the files are kept; without it in the \`RuntimeDirectory=\` of the systemd unit]:DIR:_files' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
':settings -- The settings, a list of \[\[file\]\]:_files' \
&& ret=0
;;
(git-credential)
_arguments "${_arguments_options[@]}" : \
'--client-id=[The identity'\''s client id (application id)]:ID:' \
'--object-id=[The identity'\''s object id (principal id)]:ID:' \
'--resource-id=[The identity'\''s ARM resource id]:ID:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
':operation -- get, store or erase, which git appends by itself; any other operation does nothing:_default' \
&& ret=0
;;
(exec)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
'*::command -- The program, and what it is given:_default' \
&& ret=0
;;
(sdk-env)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'--json[Print the daemon'\''s whole answer as JSON, in the form that msi-token(1) describes]' \
'--watch[Print it every two seconds, until interrupted]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(health)
_arguments "${_arguments_options[@]}" : \
'--warning=[A token that lives shorter than this is a WARNING]:DURATION:' \
'--critical=[A warm token that lives shorter than this is CRITICAL]:DURATION:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(explain)
_arguments "${_arguments_options[@]}" : \
'--config=[The configuration file; conf.d/*.toml beside it is read after it]:PATH:_files' \
'--uid=[Who calls\: a uid, or a user'\''s name. Without it and without --pid\: this process]:UID:' \
'*--gid=[A group the caller is in, by id or name; may be repeated. Without any\: the groups that its account has]:GID:' \
'--unit=[The systemd unit that the caller runs in, such as nightly-backup.service]:UNIT:' \
'(--uid --gid --unit)--pid=[A process that calls, with its user, groups and unit]:PID:' \
'--listener=[Where it calls]:LISTENER:((socket\:"The Unix socket\: groups are those of the process"
sdk\:"The loopback listener\: groups are those of the account"
lock\:"The lock'\''s listener, as the loopback listener"))' \
'--resource=[The resource that the token is for, byte for byte, such as \`https\://storage.azure.com/\`; the last slash counts]:RESOURCE:' \
'--scope=[The resource as an SDK'\''s scope, such as \`https\://storage.azure.com/.default\`]:SCOPE:' \
'--client-id=[The identity'\''s client id (application id)]:ID:' \
'--object-id=[The identity'\''s object id (principal id)]:ID:' \
'--resource-id=[The identity'\''s ARM resource id]:ID:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::named -- The resource, as with --resource:_default' \
&& ret=0
;;
(suggest)
_arguments "${_arguments_options[@]}" : \
'()--since=[How far back the journal is read]:DURATION:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'--refused[Also for what was refused, on any listener. That may be as it should be]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'::file -- Records as `journalctl -o json` prints them, - for standard input; without it this machine'\''s journal is read:_files' \
&& ret=0
;;
(doctor)
_arguments "${_arguments_options[@]}" : \
'--config=[The configuration file to judge, with conf.d/*.toml beside it. Without it\: the service'\''s, unless another daemon'\''s socket is named]:PATH:_files' \
'--resource=[Also ask for this token]:RESOURCE:' \
'--client-id=[The identity'\''s client id (application id)]:ID:' \
'--object-id=[The identity'\''s object id (principal id)]:ID:' \
'--resource-id=[The identity'\''s ARM resource id]:ID:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(lock)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
":: :_msi-token__subcmd__lock_commands" \
"*::: :->lock" \
&& ret=0

    case $state in
    (lock)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:msi-token-lock-command-$line[1]:"
        case $line[1] in
            (load)
_arguments "${_arguments_options[@]}" : \
'--config=[The daemon'\''s configuration file; conf.d/*.toml beside it is read after it]:PATH:_files' \
'--user=[Whom the daemon runs as]:USER:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(try)
_arguments "${_arguments_options[@]}" : \
'--for=[For how long]:DURATION:' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(enforce)
_arguments "${_arguments_options[@]}" : \
'--config=[The daemon'\''s configuration file; the mode is written to conf.d/90-lock.toml beside it]:PATH:_files' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'--force[Whatever is missing\: only say what]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_msi-token__subcmd__lock__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:msi-token-lock-help-command-$line[1]:"
        case $line[1] in
            (load)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(try)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(enforce)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(metrics)
_arguments "${_arguments_options[@]}" : \
'--textfile=[The file, in the collector'\''s directory; its name must end in .prom to be read there]:PATH:_files' \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(reload)
_arguments "${_arguments_options[@]}" : \
'--socket=[The daemon'\''s socket; by default that of \`MSI_TOKEND_SOCKET\`, or else \`/run/msi-tokend/msi-tokend.sock\`]:PATH:_files' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_msi-token__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:msi-token-help-command-$line[1]:"
        case $line[1] in
            (get)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(refresh)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(keep)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(git-credential)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(exec)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(sdk-env)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(health)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(explain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(suggest)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(doctor)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(lock)
_arguments "${_arguments_options[@]}" : \
":: :_msi-token__subcmd__help__subcmd__lock_commands" \
"*::: :->lock" \
&& ret=0

    case $state in
    (lock)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:msi-token-help-lock-command-$line[1]:"
        case $line[1] in
            (load)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(status)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(try)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(enforce)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(metrics)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(reload)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
}

(( $+functions[_msi-token_commands] )) ||
_msi-token_commands() {
    local commands; commands=(
'get:Print a token' \
'refresh:Have a new token fetched, because a service refused the one there is, and print it' \
'keep:Keep tokens in files, for programs that read a token from a file' \
'git-credential:Speak git'\''s protocol for credential helpers, for Azure DevOps over https' \
'exec:Become another program, with the environment that leads it to the daemon'\''s loopback listener' \
'sdk-env:Print the environment for programs on the daemon'\''s loopback listener, as sdk.env has it' \
'status:List what is cached; never a token' \
'health:One line for a monitoring system, as its plugin; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN' \
'explain:Judge the configuration files\: which rule allows, or which part of each rule does not match' \
'suggest:Print the rules that are missing, by what the lock observed, as the journal has it' \
'doctor:Find out what is wrong and say what to do' \
'lock:The firewall rules that lead to the daemon what programs send to the metadata service' \
'metrics:Write the daemon'\''s metrics to a file for the textfile collector of \`node_exporter\`' \
'reload:Have the daemon read its configuration again. For root and the daemon'\''s own user' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'msi-token commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__doctor_commands] )) ||
_msi-token__subcmd__doctor_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token doctor commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__exec_commands] )) ||
_msi-token__subcmd__exec_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token exec commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__explain_commands] )) ||
_msi-token__subcmd__explain_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token explain commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__get_commands] )) ||
_msi-token__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token get commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__git-credential_commands] )) ||
_msi-token__subcmd__git-credential_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token git-credential commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__health_commands] )) ||
_msi-token__subcmd__health_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token health commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help_commands] )) ||
_msi-token__subcmd__help_commands() {
    local commands; commands=(
'get:Print a token' \
'refresh:Have a new token fetched, because a service refused the one there is, and print it' \
'keep:Keep tokens in files, for programs that read a token from a file' \
'git-credential:Speak git'\''s protocol for credential helpers, for Azure DevOps over https' \
'exec:Become another program, with the environment that leads it to the daemon'\''s loopback listener' \
'sdk-env:Print the environment for programs on the daemon'\''s loopback listener, as sdk.env has it' \
'status:List what is cached; never a token' \
'health:One line for a monitoring system, as its plugin; exits with 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN' \
'explain:Judge the configuration files\: which rule allows, or which part of each rule does not match' \
'suggest:Print the rules that are missing, by what the lock observed, as the journal has it' \
'doctor:Find out what is wrong and say what to do' \
'lock:The firewall rules that lead to the daemon what programs send to the metadata service' \
'metrics:Write the daemon'\''s metrics to a file for the textfile collector of \`node_exporter\`' \
'reload:Have the daemon read its configuration again. For root and the daemon'\''s own user' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'msi-token help commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__doctor_commands] )) ||
_msi-token__subcmd__help__subcmd__doctor_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help doctor commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__exec_commands] )) ||
_msi-token__subcmd__help__subcmd__exec_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help exec commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__explain_commands] )) ||
_msi-token__subcmd__help__subcmd__explain_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help explain commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__get_commands] )) ||
_msi-token__subcmd__help__subcmd__get_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help get commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__git-credential_commands] )) ||
_msi-token__subcmd__help__subcmd__git-credential_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help git-credential commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__health_commands] )) ||
_msi-token__subcmd__help__subcmd__health_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help health commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__help_commands] )) ||
_msi-token__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help help commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__keep_commands] )) ||
_msi-token__subcmd__help__subcmd__keep_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help keep commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__lock_commands] )) ||
_msi-token__subcmd__help__subcmd__lock_commands() {
    local commands; commands=(
'load:Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root' \
'status:Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded' \
'try:Switch the lock on for a while. For root' \
'enforce:Have the rules enforced, when it is known whom that denies what. For root' \
    )
    _describe -t commands 'msi-token help lock commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__lock__subcmd__enforce_commands] )) ||
_msi-token__subcmd__help__subcmd__lock__subcmd__enforce_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help lock enforce commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__lock__subcmd__load_commands] )) ||
_msi-token__subcmd__help__subcmd__lock__subcmd__load_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help lock load commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__lock__subcmd__status_commands] )) ||
_msi-token__subcmd__help__subcmd__lock__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help lock status commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__lock__subcmd__try_commands] )) ||
_msi-token__subcmd__help__subcmd__lock__subcmd__try_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help lock try commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__metrics_commands] )) ||
_msi-token__subcmd__help__subcmd__metrics_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help metrics commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__refresh_commands] )) ||
_msi-token__subcmd__help__subcmd__refresh_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help refresh commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__reload_commands] )) ||
_msi-token__subcmd__help__subcmd__reload_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help reload commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__sdk-env_commands] )) ||
_msi-token__subcmd__help__subcmd__sdk-env_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help sdk-env commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__status_commands] )) ||
_msi-token__subcmd__help__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help status commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__help__subcmd__suggest_commands] )) ||
_msi-token__subcmd__help__subcmd__suggest_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token help suggest commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__keep_commands] )) ||
_msi-token__subcmd__keep_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token keep commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock_commands] )) ||
_msi-token__subcmd__lock_commands() {
    local commands; commands=(
'load:Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root' \
'status:Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded' \
'try:Switch the lock on for a while. For root' \
'enforce:Have the rules enforced, when it is known whom that denies what. For root' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'msi-token lock commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__enforce_commands] )) ||
_msi-token__subcmd__lock__subcmd__enforce_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock enforce commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help_commands] )) ||
_msi-token__subcmd__lock__subcmd__help_commands() {
    local commands; commands=(
'load:Load the rules, as msi-tokend-lock.service does when it starts and reloads. For root' \
'status:Say whether the lock is there, and what it saw; exits with 0 loaded and seen to work, 1 loaded and not known, 2 lost, 3 not loaded' \
'try:Switch the lock on for a while. For root' \
'enforce:Have the rules enforced, when it is known whom that denies what. For root' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'msi-token lock help commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help__subcmd__enforce_commands] )) ||
_msi-token__subcmd__lock__subcmd__help__subcmd__enforce_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock help enforce commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help__subcmd__help_commands] )) ||
_msi-token__subcmd__lock__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock help help commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help__subcmd__load_commands] )) ||
_msi-token__subcmd__lock__subcmd__help__subcmd__load_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock help load commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help__subcmd__status_commands] )) ||
_msi-token__subcmd__lock__subcmd__help__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock help status commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__help__subcmd__try_commands] )) ||
_msi-token__subcmd__lock__subcmd__help__subcmd__try_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock help try commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__load_commands] )) ||
_msi-token__subcmd__lock__subcmd__load_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock load commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__status_commands] )) ||
_msi-token__subcmd__lock__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock status commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__lock__subcmd__try_commands] )) ||
_msi-token__subcmd__lock__subcmd__try_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token lock try commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__metrics_commands] )) ||
_msi-token__subcmd__metrics_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token metrics commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__refresh_commands] )) ||
_msi-token__subcmd__refresh_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token refresh commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__reload_commands] )) ||
_msi-token__subcmd__reload_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token reload commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__sdk-env_commands] )) ||
_msi-token__subcmd__sdk-env_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token sdk-env commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__status_commands] )) ||
_msi-token__subcmd__status_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token status commands' commands "$@"
}
(( $+functions[_msi-token__subcmd__suggest_commands] )) ||
_msi-token__subcmd__suggest_commands() {
    local commands; commands=()
    _describe -t commands 'msi-token suggest commands' commands "$@"
}

if [ "$funcstack[1]" = "_msi-token" ]; then
    _msi-token "$@"
else
    compdef _msi-token msi-token
fi
