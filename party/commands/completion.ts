/** `cachet completion`: a shell's completion script, made from the commands themselves. */
import { Argument, Command, type Option } from 'commander';
import { nameOf } from './options.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** Names of values that are files or folders, by themselves or as well. */
const FILES = /<(file|dir|model|key|policy|policies)\b/;

/** A command, the program itself among them, as scripts know it. */
interface Place {
  /** How it is called, a space before each word; nothing for the program. */
  readonly path: string;
  readonly command: Command;
  readonly options: readonly Option[];
  /** What may come next that is no option: commands below, choices of an argument. */
  readonly words: readonly string[];
  /** Whether an argument is a file. */
  readonly files: boolean;
}

function placesOf(command: Command): Place[] {
  const argument = command.registeredArguments[0];
  return [
    {
      path: command.parent ? ` ${nameOf(command)}` : '',
      command,
      // With --help and --version, which commander keeps elsewhere.
      options: command.createHelp().visibleOptions(command),
      words: [...command.commands.map((c) => c.name()), ...(argument?.argChoices ?? [])],
      files: argument !== undefined && FILES.test(`<${argument.name()}`),
    },
    ...command.commands.flatMap(placesOf),
  ];
}

const takesFile = (o: Option): boolean => !o.argChoices && FILES.test(o.flags);

function bash(program: Command): string {
  const places = placesOf(program),
    quoted = (texts: readonly string[]): string => texts.map((text) => `"${text}"`).join('|'),
    after = places.flatMap(({ path, options }) =>
      options.filter((o) => o.required).map((o) => ({ at: `${path} ${o.long}`, words: o.argChoices?.join(' ') ?? '', files: takesFile(o) })),
    ),
    chosen = after.filter((a) => a.words !== '');
  return `_cachet() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" prev="\${COMP_WORDS[COMP_CWORD-1]}" path="" words="" files="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "\${COMP_WORDS[i-1]}" in -*) continue ;; esac
    case "$path \${COMP_WORDS[i]}" in
      ${quoted(places.slice(1).map((p) => p.path))}) path="$path \${COMP_WORDS[i]}" ;;
    esac
  done
  case "$path $prev" in
${chosen.map((a) => `    "${a.at}") words="${a.words}" ;;`).join('\n')}
    ${quoted(after.filter((a) => a.files).map((a) => a.at))}) files=1 ;;
    ${quoted(after.filter((a) => a.words === '' && !a.files).map((a) => a.at))}) ;;
    *) case "$path" in
${places.map((p) => `      "${p.path}") words="${[...p.words, ...p.options.map((o) => o.long!)].join(' ')}"${p.files ? ' files=1' : ''} ;;`).join('\n')}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ -n "$files" ]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY+=($(compgen -f -- "$cur"))
  fi
}
complete -F _cachet cachet
`;
}

function fish(program: Command): string {
  const places = placesOf(program),
    quoted = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`,
    described = (text: string): string => (text === '' ? '' : ` -d ${quoted(text)}`);
  const lines = places.flatMap(({ path, command, options, words, files }) => {
    const here = `complete -c cachet -n ${quoted(`__cachet_at "${path}"`)}`,
      below = new Map(command.commands.map((c) => [c.name(), c.description()]));
    return [
      ...words.map((word) => `${here} -a ${quoted(word)}${described(below.get(word) ?? '')}`),
      ...(files ? [`${here} -F`] : []),
      ...options.map((o) => {
        const value = o.argChoices ? ` -x -a ${quoted(o.argChoices.join(' '))}` : takesFile(o) ? ' -r -F' : o.required ? ' -x' : '';
        return `${here} -l ${o.long!.slice(2)}${described(o.description)}${value}`;
      }),
    ];
  });
  return `function __cachet_at
    set -l words (commandline -opc)
    set -e words[1]
    set -l path ''
    for word in $words
        if contains -- "$path $word" ${places
          .slice(1)
          .map((p) => quoted(p.path))
          .join(' ')}
            set path "$path $word"
        end
    end
    test "$path" = "$argv[1]"
end
complete -c cachet -f
${lines.join('\n')}
`;
}

export const completionCommand = new Command('completion')
  .description('Print a completion script for a shell.')
  .addArgument(new Argument('<shell>', 'which shell').choices(SHELLS))
  .option('--json', 'the script as JSON on stdout')
  .addHelpText('after', '\nTry:\n  source <(cachet completion bash)\n  source <(cachet completion zsh)\n  cachet completion fish | source')
  .action((shell: (typeof SHELLS)[number], o: { json?: boolean }, command: Command) => {
    const program = command.parent!,
      // zsh runs bash's completions.
      script = shell === 'fish' ? fish(program) : shell === 'bash' ? bash(program) : `autoload -U +X bashcompinit && bashcompinit\n${bash(program)}`;
    process.stdout.write(o.json ? `${JSON.stringify({ shell, script })}\n` : script);
  });
