"""Completion scripts for vladctl, made from its table of verbs."""

from __future__ import annotations

from collections.abc import Mapping

_BASH = """\
# vladctl completion for bash: source <(vladctl completion bash)
_vladctl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} verb= i
    COMPREPLY=()
    case $before in
        --socket) compopt -o default 2>/dev/null; return ;;
        --timeout|--since|--listen|--interval) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
            --socket|--timeout) ((i++)) ;;
            -*) ;;
            *) verb=${{COMP_WORDS[i]}}; break ;;
        esac
    done
    case $verb in
        "") COMPREPLY=($(compgen -W "{verbs} {options}" -- "$word")) ;;
        load) compopt -o default 2>/dev/null; COMPREPLY=($(compgen -d -- "$word")) ;;
        completion) COMPREPLY=($(compgen -W "bash zsh fish" -- "$word")) ;;
        events) COMPREPLY=($(compgen -W "--follow --since {options}" -- "$word")) ;;
        metrics) COMPREPLY=($(compgen -W "--prometheus --listen {options}" -- "$word")) ;;
        top) COMPREPLY=($(compgen -W "--interval --ascii {options}" -- "$word")) ;;
        limp) COMPREPLY=($(compgen -W "--yes {options}" -- "$word")) ;;
        *) COMPREPLY=($(compgen -W "{options}" -- "$word")) ;;
    esac
}}
complete -F _vladctl vladctl
"""

_ZSH = """\
#compdef vladctl
# vladctl completion for zsh: source <(vladctl completion zsh)
_vladctl() {{
    local -a verbs
    verbs=(
{described}
    )
    local context state state_descr line
    typeset -A opt_args
    _arguments -C \\
        '--socket[control socket]:path:_files' '--json[raw result]' \\
        '--timeout[seconds to wait]:seconds:' '1:verb:->verb' '*::argument:->argument'
    case $state in
        verb) _describe verb verbs ;;
        argument)
            case $line[1] in
                load) _files -/ ;;
                completion) _values shell bash zsh fish ;;
                events) _arguments '--follow[go on]' '--since[number]:number:' ;;
                metrics) _arguments '--prometheus[as Prometheus text]' '--listen[serve them]:address:' ;;
                top) _arguments '--interval[between updates]:seconds:' '--ascii[plain characters]' ;;
                limp) _arguments '--yes[do not ask]' ;;
            esac ;;
    esac
}}
compdef _vladctl vladctl
"""

_FISH = """\
# vladctl completion for fish: vladctl completion fish | source
complete -c vladctl -f
complete -c vladctl -l socket -r -F -d 'control socket'
complete -c vladctl -l json -d 'raw result'
complete -c vladctl -l timeout -x -d 'seconds to wait'
{described}
complete -c vladctl -n '__fish_seen_subcommand_from load' -F
complete -c vladctl -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'
complete -c vladctl -n '__fish_seen_subcommand_from events' -l follow
complete -c vladctl -n '__fish_seen_subcommand_from events' -l since -x
complete -c vladctl -n '__fish_seen_subcommand_from metrics' -l prometheus
complete -c vladctl -n '__fish_seen_subcommand_from metrics' -l listen -x
complete -c vladctl -n '__fish_seen_subcommand_from top' -l interval -x
complete -c vladctl -n '__fish_seen_subcommand_from top' -l ascii
complete -c vladctl -n '__fish_seen_subcommand_from limp' -l yes
"""


def script(shell: str, verbs: Mapping[str, str]) -> str:
    """The script of `bash`, `zsh` or `fish`; verbs: name -> one line of help."""
    if shell == "bash":
        return _BASH.format(verbs=" ".join(verbs), options="--socket --json --timeout --help")
    quoted = {name: text.replace("'", "’") for name, text in verbs.items()}
    if shell == "zsh":
        escaped = {name: text.replace(":", "\\:") for name, text in quoted.items()}
        pairs = (f"        '{name}:{text}'" for name, text in escaped.items())
        return _ZSH.format(described="\n".join(pairs))
    lines = (
        f"complete -c vladctl -n __fish_use_subcommand -a {name} -d '{text}'"
        for name, text in quoted.items()
    )
    return _FISH.format(described="\n".join(lines))
