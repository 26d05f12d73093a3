#compdef msi-tokend

autoload -U is-at-least

_msi-tokend() {
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
'--config=[The configuration file; conf.d/*.toml beside it is read after it]:PATH:_files' \
'--check[Validate the configuration, print what is in effect and where each value came from, and exit]' \
'--strict[With --check\: also fail if there is a warning]' \
'-h[Print help]' \
'--help[Print help]' \
'-V[Print version]' \
'--version[Print version]' \
&& ret=0
}

(( $+functions[_msi-tokend_commands] )) ||
_msi-tokend_commands() {
    local commands; commands=()
    _describe -t commands 'msi-tokend commands' commands "$@"
}

if [ "$funcstack[1]" = "_msi-tokend" ]; then
    _msi-tokend "$@"
else
    compdef _msi-tokend msi-tokend
fi
