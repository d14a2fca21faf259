/**
 * Long texts with facts in them and questions about these, made from a seed: what a cache policy must not lose. Notes are in the words that the embedded model
 * knows; needles are for models that chat, among sentences of their own that say nothing about them. All of it is made up.
 */
import { seeded } from './sampling.ts';

export interface Question {
  readonly question: string;
  /** What an answer must say. */
  readonly answer: string;
  /** How a model may say it. */
  readonly draft: string;
}

export interface FactText {
  readonly text: string;
  readonly questions: readonly Question[];
}

export interface FactTextOptions {
  readonly seed: number;
  /** Length of the text, about; `count` says how long a piece is. */
  readonly tokens: number;
  readonly questions: number;
  readonly count: (text: string) => number;
}

class Draw {
  private readonly next: () => number;
  constructor(seed: number) {
    this.next = seeded(seed);
  }
  below(n: number): number {
    return Math.floor(this.next() * n);
  }
  one<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
  some<T>(list: readonly T[], n: number): T[] {
    const rest = [...list];
    return Array.from({ length: Math.min(n, rest.length) }, () => rest.splice(this.below(rest.length), 1)[0]!);
  }
}

const words = (text: string): string[] => text.split(/\s*[,\n]\s*/);

// ---- notes ------------------------------------------------------------------------------------------------------------------------------

const NAMES = words(`Ada,Alan,Alma,Amir,Ana,Anton,Bella,Ben,Boris,Bruno,Carl,Carmen,Cora,Dana,Daniel,Dario,Diego,Dora,Edith,Elena,Eli,Emil,Emma,Erik,Eva,Felix
Finn,Fiona,Frank,Gina,Greta,Hana,Hans,Hugo,Ian,Ida,Igor,Ines,Iris,Ivan,Jana,Jonas,Jules,Julia,Karen,Karl,Kira,Lara,Lars,Leo,Lena,Linda,Luca,Lucy,Luis,Magda
Marco,Maria,Martin,Max,Mei,Mia,Milo,Mona,Nadia,Nina,Noah,Nora,Olga,Omar,Oscar,Otto,Paul,Pedro,Petra,Pia,Rana,Rita,Robin,Rosa,Ruth,Sam,Sara,Simon,Sofia,Sven`);

interface Attribute {
  readonly statements: readonly string[];
  readonly question: string;
  readonly values: readonly string[];
}
/** N stands for a name, V for a value. */
const ATTRIBUTES: readonly Attribute[] = [
  {
    statements: ['N lives in V.', "N's city is V.", 'The home of N is in V.'],
    question: 'Where does N live?',
    values: words('Athens,Berlin,Cairo,Delhi,Dublin,Geneva,Hanoi,Kyoto,Lagos,Lima,Lisbon,London,Madrid,Milan,Oslo,Paris,Prague,Quito,Riga,Seoul'),
  },
  {
    statements: ['N is allergic to V.', "N's allergy is V.", 'The allergy of N is V.'],
    question: 'What is N allergic to?',
    values: words('penicillin,latex,peanuts,pollen,dust,eggs,shellfish,soy,wheat,nickel,aspirin,bees'),
  },
  {
    statements: ['N is treated by V.', "N's doctor is V.", 'The doctor of N is V.'],
    question: "Who is N's doctor?",
    values: words(
      'Dr Abbott,Dr Chen,Dr Costa,Dr Fischer,Dr Haas,Dr Ito,Dr Jansen,Dr Klein,Dr Lopez,Dr Meyer,Dr Novak,Dr Patel,Dr Rossi,Dr Silva,Dr Tanaka,Dr Weber',
    ),
  },
  {
    statements: ['N works as a V.', "N's job is V.", 'The job of N is V.'],
    question: "What is N's job?",
    values: words('baker,nurse,pilot,teacher,lawyer,farmer,tailor,singer,plumber,painter,judge,chef,writer,driver'),
  },
  {
    statements: ['N has a pet V.', "N's pet is a V.", 'The pet of N is a V.'],
    question: "What is N's pet?",
    values: words('cat,dog,parrot,rabbit,hamster,turtle,pony,lizard,ferret,goose'),
  },
  {
    statements: ['N likes to eat V.', "N's favourite food is V.", 'The favourite food of N is V.'],
    question: 'What does N like to eat?',
    values: words('pasta,sushi,curry,soup,pizza,rice,salad,tacos,stew,bread'),
  },
  {
    statements: ['N has a visit on V.', "N's visit is on V.", 'The visit of N is on V.'],
    question: "When is N's visit?",
    values: words('Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday'),
  },
  {
    statements: ['N enjoys V.', "N's hobby is V.", 'The hobby of N is V.'],
    question: "What is N's hobby?",
    values: words('chess,golf,tennis,yoga,sailing,knitting,hiking,poker,fishing,dancing'),
  },
];
const REMARKS =
  words(`The clinic opens at eight.,Rain fell all night.,Nothing else was noted.,The garden gate was closed.,Somebody called twice.,A letter came by post.
The meeting was short.,Lunch was served late.,The bus did not come.,It was a quiet week.,The file was checked again.,The window faces north.,The phone rang once.`);

/** Sentences about people, each with a space before it, and remarks between; a pair of person and attribute is stated once. */
export function notes(o: FactTextOptions): FactText {
  const draw = new Draw(o.seed),
    stated = new Set<string>(),
    facts: Question[] = [];
  let text = '',
    length = 0;
  while (length < o.tokens) {
    const name = draw.one(NAMES),
      attribute = draw.one(ATTRIBUTES),
      value = draw.one(attribute.values),
      key = `${name}: ${attribute.question}`;
    let sentence = ` ${draw.one(REMARKS)}`;
    if (draw.below(6) > 0 && !stated.has(key)) {
      stated.add(key);
      facts.push({ question: attribute.question.replace('N', name), answer: `${value}.`, draft: `${value}.` });
      sentence = ` ${draw.one(attribute.statements).replace(/N|V/g, (x) => (x === 'N' ? name : value))}`;
    }
    text += sentence;
    length += o.count(sentence);
  }
  return { text, questions: draw.some(facts, o.questions) };
}

// ---- needles ----------------------------------------------------------------------------------------------------------------------------

const PLACES =
  words(`the old mill,the harbour,the railway station,the town library,the school,the market square,the river bridge,the north gate,the post office,the bakery
the museum,the fire station,the orchard,the theatre,the hospital,the workshop,the lighthouse,the town hall,the ferry landing,the quarry`);
const PEOPLE =
  words(`Mrs. Delgado,Mr. Tarrant,the new teacher,the captain,a retired nurse,two students,the gardener,Mr. Okafor,the clerk,Mrs. Lindqvist,an old friend,the mayor
the carpenter,a young painter,the station master,the baker's daughter`);
const DOINGS =
  words(`repaired a broken window,counted the boats,wrote a long letter,waited for the rain to stop,told a story about the great storm,painted the door green
bought a basket of apples,read the newspaper aloud,lost a pair of gloves,planted a row of tulips,carried chairs across the yard,fed the pigeons
played the violin,asked for directions,cleaned the old clock,sold the last tickets`);
const WHENS =
  words(`On Monday morning,Late in the evening,During the summer fair,After the first frost,Every second Thursday,Shortly before noon,In the spring,When the fog had lifted
Some years ago,At the end of the week,Before the parade began,One quiet afternoon`);
const REASONS =
  words(`because nobody else had the time,and nobody was surprised,although it was already dark,while the bells were ringing,and stayed until the lamps were lit
because the road was closed,which took most of the day,and then went home along the canal,without saying a word to anybody,and everyone agreed that it was a good idea
although the wind was cold,as the custom had been for many years`);
const THINGS =
  words(`office printer,garden shed,wine cellar,school computer,boat house,safe in the library,museum archive,bicycle lock,radio room,staff kitchen,music room
alarm system,delivery van,town website,camera store,ice machine,guest network,tool cabinet,ticket office,water pump,film room,laundry room,coffee machine,north tower`);
const PASSWORDS =
  words(`thunder,marble,lantern,orange,copper,velvet,winter,falcon,ginger,silver,button,candle,meadow,pepper,rocket,saddle,tunnel,violet,walnut,anchor,bamboo,cherry
dragon,ember,forest,guitar,hammer,island,jacket,kitten,lemon,mirror,needle,ocean,pencil,ribbon,shadow,ticket,umbrella,window`);

/** Prose with `questions` passwords in it, spread over its length. */
export function needles(o: FactTextOptions): FactText {
  const draw = new Draw(o.seed),
    things = draw.some(THINGS, o.questions),
    secrets = draw.some(PASSWORDS, o.questions),
    sentences: string[] = [];
  for (let length = 0; length < o.tokens - 12 * things.length;) {
    const sentence = ` ${draw.one(WHENS)}, ${draw.one(PEOPLE)} ${draw.one(DOINGS)} near ${draw.one(PLACES)} ${draw.one(REASONS)}.`;
    sentences.push(sentence);
    length += o.count(sentence);
  }
  const each = sentences.length / things.length;
  things.forEach((thing, i) =>
    sentences.splice(Math.floor(i * each) + i + draw.below(Math.floor(each)), 0, ` The password for the ${thing} is '${secrets[i]!}'.`),
  );
  return {
    text: sentences.join('').trim(),
    questions: things.map((thing, i) => ({
      question: `What is the password for the ${thing}? Answer in one short sentence.`,
      answer: secrets[i]!,
      draft: `The password for the ${thing} is '${secrets[i]!}'.`,
    })),
  };
}
