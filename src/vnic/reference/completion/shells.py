"""What `vnic completion SHELL` prints: a function that asks `vnic completion words`, in the shell's own language.

The answer is a line of directives, then a candidate a line, with its meaning after a tab.
"""

from __future__ import annotations

from typing import Final

BASH: Final = r"""# vnic's completion for bash: eval "$(vnic completion bash)"
_vnic() {
    local IFS=$'\n' answer directives
    # Bash splits words at = and :; the line as a whole goes to vnic, which strips what is before them.
    answer=$("${COMP_WORDS[0]/#\~/$HOME}" completion words --breaks "$COMP_WORDBREAKS" \
        --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null) || return
    directives=${answer%%$'\n'*}
    COMPREPLY=()
    if [[ $answer == *$'\n'* ]]; then
        COMPREPLY=($(printf '%s\n' "${answer#*$'\n'}" | cut -f 1))
    fi
    if [[ $directives == *files* ]]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY+=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
    if [[ $directives == *nospace* ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _vnic vnic
"""

ZSH: Final = r"""#compdef vnic
# vnic's completion for zsh: eval "$(vnic completion zsh)" behind compinit, or this as _vnic in a folder of $fpath
_vnic() {
    local line directives
    local -a answer values texts
    answer=("${(@f)$("${words[1]}" completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    directives=$answer[1]
    for line in "${(@)answer[2,-1]}"; do
        values+=("${line%%$'\t'*}")
        if [[ $line == *$'\t'* ]]; then
            texts+=("${line%%$'\t'*}  -- ${line#*$'\t'}")
        else
            texts+=("$line")
        fi
    done
    local -a suffix
    [[ $directives == *nospace* ]] && suffix=(-S '')
    (( $#values )) && compadd -l -d texts "${(@)suffix}" -- "${(@)values}"
    [[ $directives == *files* ]] && _files
    return 0
}
if [[ $funcstack[1] == _vnic ]]; then
    _vnic "$@"
else
    compdef _vnic vnic
fi
"""

FISH: Final = r"""# vnic's completion for fish: vnic completion fish > ~/.config/fish/completions/vnic.fish
function __vnic_words
    set -l words (commandline -opc)
    set -l answer ($words[1] completion words -- $words[2..-1] (commandline -ct) 2>/dev/null)
    if set -q answer[2]
        printf '%s\n' $answer[2..-1]
    end
    if string match -q '*files*' -- $answer[1]
        __fish_complete_path (commandline -ct)
    end
end
complete -c vnic -f -k -a '(__vnic_words)'
"""

SCRIPTS: Final = {"bash": BASH, "zsh": ZSH, "fish": FISH}
