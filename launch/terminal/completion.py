"""`rewardloop completion bash`: completion of jobs, keys, groups and choices for the command `rewardloop` alone. Imports no torch."""

from collections.abc import Mapping

from launch.schema import SCHEMAS
from launch.terminal.help import groups_of, sections_of

SHELLS = ("bash", "zsh")

_SCRIPT = """# eval "$(rewardloop completion SHELL)"
_rewardloop() {
  local line="${COMP_LINE:0:COMP_POINT}" words
  local cur="${line##* }"
  case "${COMP_WORDS[1]}" in
CASES
    *) words="JOBS" ;;
  esac
  [[ $COMP_CWORD -le 1 ]] && words="JOBS"
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  # Readline splits words at =, and replaces what is behind it alone.
  [[ $cur == *=* && $COMP_WORDBREAKS == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%=*}="}")
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null
}
complete -o default -F _rewardloop rewardloop
"""


def script(shell: str, jobs: Mapping[str, str]) -> str:
    """The script that a shell evaluates; zsh runs that of bash by bashcompinit. `jobs` are the commands that there are.

    Raises `ValueError` for another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f'there is no completion for {shell!r}; choose {" or ".join(SHELLS)}, as in eval "$(rewardloop completion bash)".')
    cases = [f'    {name}) words="{" ".join(words_of(name))}" ;;' for name in SCHEMAS]
    before = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return before + _SCRIPT.replace("SHELL", shell).replace("CASES", "\n".join(cases)).replace("JOBS", " ".join([*jobs, "completion"]))


def words_of(name: str) -> list[str]:
    """What may stand behind a job: `group=choice`, `key=choice`, and `key=` where anything goes."""
    words = [f"{group}={choice}" for group, choices in groups_of(name).items() for choice in choices]
    for section in sections_of(SCHEMAS[name]):
        for key in section.keys:
            choices = key.choices or (("true", "false") if key.default in ("true", "false") else ("",))
            words += [f"{key.name}={choice}" for choice in choices if "NAME" not in key.name]
    return [*words, "--help", "--multirun", "--cfg", "--config-dir", "--config-name"]
