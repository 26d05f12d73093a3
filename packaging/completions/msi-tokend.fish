complete -c msi-tokend -l config -d 'The configuration file; conf.d/*.toml beside it is read after it' -r -F
complete -c msi-tokend -l check -d 'Validate the configuration, print what is in effect and where each value came from, and exit'
complete -c msi-tokend -l strict -d 'With --check: also fail if there is a warning'
complete -c msi-tokend -s h -l help -d 'Print help'
complete -c msi-tokend -s V -l version -d 'Print version'
