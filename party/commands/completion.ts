/** `cachet completion`: a shell's completion script, made from the commands themselves. */
import { Argument, Command } from 'commander';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** Words that a command takes: its options, and their values where there is a choice. */
const wordsOf = (command: Command): string[] => command.options.filter((o) => !o.hidden).map((o) => o.long!);

function bash(program: Command): string {
  const cases = program.commands.map((c) => `    ${c.name()}) words="${wordsOf(c).join(' ')}" ;;`);
  const choices = program.commands.flatMap((c) => c.options.flatMap((o) => (o.argChoices ? [`    ${o.long}) words="${o.argChoices.join(' ')}" ;;`] : [])));
  return `_cachet() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="${program.commands.map((c) => c.name()).join(' ')} --help --version"
  else case "$prev" in
${[...new Set(choices)].join('\n')}
    --config|--note|--out|--model|--trace|--cases|--calibration|--ledger|--dir) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    *) case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    esac ;;
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _cachet cachet
`;
}

function fish(program: Command): string {
  const quoted = (text: string): string => `'${text.replaceAll("'", "\\'")}'`,
    lines = program.commands.flatMap((c) => [
      `complete -c cachet -n __fish_use_subcommand -a ${c.name()} -d ${quoted(c.description())}`,
      ...c.options
        .filter((o) => !o.hidden)
        .map(
          (o) =>
            `complete -c cachet -n '__fish_seen_subcommand_from ${c.name()}' -l ${o.long!.slice(2)} -d ${quoted(o.description)}${o.argChoices ? ` -x -a ${quoted(o.argChoices.join(' '))}` : o.required ? ' -r' : ''}`,
        ),
    ]);
  return `${lines.join('\n')}\n`;
}

export const completionCommand = new Command('completion')
  .description('Print a completion script for a shell.')
  .addArgument(new Argument('<shell>', 'which shell').choices(SHELLS))
  .addHelpText('after', '\nTry:\n  source <(cachet completion bash)\n  source <(cachet completion zsh)\n  cachet completion fish | source')
  .action((shell: (typeof SHELLS)[number], _: object, command: Command) => {
    const program = command.parent!;
    // zsh runs bash's completions.
    process.stdout.write(shell === 'fish' ? fish(program) : shell === 'bash' ? bash(program) : `autoload -U +X bashcompinit && bashcompinit\n${bash(program)}`);
  });
