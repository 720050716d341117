"""Print the shell's completion of `diffusion`: of commands, groups, choices, settings and folders.

diffusion completion bash >> ~/.bashrc                                   then open a new terminal
diffusion completion zsh >> ~/.zshrc                                     after compinit
diffusion completion fish > ~/.config/fish/completions/diffusion.fish
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from diffusion.__main__ import NAMES
from diffusion.base.console import console
from diffusion.base.files import PACKAGE
from diffusion.config.build import flat
from diffusion.config.choices import choices, composed, default_choices, groups, inner_groups, searching
from diffusion.config.schema import COMMANDS
from diffusion.errors import Arguments, UserError
from diffusion.runs.folder import runs_below

# Each asks `diffusion completion LINE` for the words that may stand at the end of a line; if there are none, the shell
# completes names of files. Bash only replaces what follows the last of certain characters, such as `=`.
SCRIPTS = {
    "bash": """\
_diffusion() {
  local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
  local word=${line##* }
  COMPREPLY=($("$1" completion "$line" 2>/dev/null))
  [[ ${COMPREPLY[0]} == *[.=] ]] && compopt -o nospace
  COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[$COMP_WORDBREAKS]}"}"}")
}
complete -o default -F _diffusion diffusion""",
    "zsh": """\
_diffusion() {
  local -a found=("${(@f)$($words[1] completion "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
  if [[ -z $found ]]; then
    compset -P '*='
    _files
  else
    compadd -Q -S '' -- ${(M)found:#*[.=]}
    compadd -Q -- ${found:#*[.=]}
  fi
}
compdef _diffusion diffusion""",
    "fish": """\
function __diffusion
  set -l line (commandline -cp | string collect)
  set -g __diffusion (diffusion completion $line 2>/dev/null)
  test -n "$__diffusion"
end
complete -c diffusion -n __diffusion -f -a '$__diffusion'""",
}


def answer(shell: str) -> None:
    """Print the script of a shell or, for its script, the words that may follow a line."""
    if shell not in SCRIPTS and " " not in shell:
        raise UserError(f"{shell}: no completion for this shell; expected bash, zsh or fish")
    console.print(SCRIPTS.get(shell) or "\n".join(candidates(shell)))


# what may follow the name of a command
FIRST = {"completion": [*SCRIPTS], "reproduce": choices("results"), "study": ["sampler", "guidance", "floor"]}


def candidates(line: str) -> list[str]:
    """The words that may stand at the end of the command line `diffusion …`; none where a file's name may stand."""
    *before, word = [*line.split()[1:], ""] if line[-1:].isspace() else line.split()[1:]
    own = before[before.index("--config-dir") + 1 :][:1] if "--config-dir" in before else []
    with searching(own):
        return [each for each in _words(before, word) if each.startswith(word)]


def _words(before: list[str], word: str) -> Iterable[str]:
    if not before:
        return NAMES
    command, *words = before
    if not words and command in FIRST:
        return FIRST[command]
    if command not in COMMANDS or "--config-dir" in words[-1:]:
        return []
    if "--help" in words[-1:]:
        return groups()
    key, equals, value = word.partition("=")
    if equals:  # the choices of a group, in a sweep of the last one
        start = word[: len(word) - len(value.rpartition(",")[2])]
        if key in ("ckpt", "init", "then"):
            bundled = sorted(file.parent.name for file in (PACKAGE / "pretrained").glob("*/config.yaml"))
            names = ["auto"] if (command, key) == ("train", "ckpt") else bundled
            runs = runs_below(Path("outputs")) if Path("outputs").is_dir() else ()
            saved = [str(run) for run in runs if (run / "checkpoints").is_dir()]
            return [start + name for name in ("last", *names, *saved)]
        group = key.partition("@")[0]
        return [start + choice for choice in choices(group)] if group in groups() else []
    command = f"study_{words[0]}" if words[:1] in (["guidance"], ["floor"]) else command
    chosen = default_choices(command)
    inner = [f"{part}@{group}.{part}" for group in chosen for part in inner_groups(group)]
    given = [each for each in words if each.partition("=")[0] in chosen and "=" in each]
    settings = [f"{setting}=" for setting in flat(composed(command, given))]
    if "." not in key:  # trainer. for its settings
        settings = [*dict.fromkeys(setting[: setting.find(".") + 1] or setting for setting in settings)]
    return [*(f"{each}=" for each in (*chosen, *inner)), *settings]


main = Arguments("completion", __doc__, answer)
main.add_argument("shell", help="bash, zsh or fish")

if __name__ == "__main__":
    sys.exit(main())
