/** One sentence of a story: its forms, and how often it is left out. */
export interface StoryPart {
  readonly templates: readonly string[];
  readonly optional?: number;
}

const part = (...templates: string[]): StoryPart => ({ templates });
const maybe = (optional: number, ...templates: string[]): StoryPart => ({ templates, optional });

const hero = part(
  "Once upon a time there was a {trait} child named {name}.",
  "{name} was a {trait} child who lived near the {place}.",
  "In a small house by the {place} lived a {trait} child called {name}.",
  "Long ago a {trait} child named {name} lived in a village.",
);
const outing = part(
  "One {weather} {time} {name} went to the {place}.",
  "On a {weather} {time} {he} walked to the {place} alone.",
  "One {time} it was {weather}, and {name} ran to the {place}.",
);
const toy = (share: number): StoryPart =>
  maybe(
    share,
    "{name} had a {size} {color} {thing}.",
    "{he} loved {his} {size} {color} {thing} very much.",
    "Every day {he} played with a {size} {color} {thing}.",
  );
const foodFact = (share: number): StoryPart =>
  maybe(
    share,
    "Every {animal} likes {food}.",
    "The {animal} loved {food} more than anything.",
    "When a {animal} is hungry, it wants {food}.",
    "The best food for a {animal} is {food}.",
    "Everyone knows that a {animal} eats {food}.",
  );
const homeFact = (share: number): StoryPart =>
  maybe(
    share,
    "The {animal} lived in the {home}.",
    "Every {animal} sleeps in the {home}.",
    "The home of a {animal} is the {home}.",
    "Everyone knows that a {animal} lives in the {home}.",
  );
const ending = part(
  "In the {time} {name} went home with a warm heart.",
  "{he} went home and told {his} mother about the {animal}.",
  "When it got dark {name} walked home and smiled.",
);
const moral = maybe(
  0.2,
  "{name} had learned to {lesson}.",
  "From that day on {name} and the {animal} were friends.",
  "{he} never forgot the {animal}.",
  "And {he} always remembered to {lesson}.",
);

/** The animal is hungry; its food is found. */
const hungry: readonly StoryPart[] = [
  hero,
  toy(0.5),
  outing,
  part(
    "There {he} met a hungry {animal}.",
    "At the {place} {he} saw a hungry {animal}.",
    "A hungry {animal} was sitting {hiding}.",
  ),
  part(
    'The {animal} said, "I am so hungry."',
    '"Why are you sad?" asked {name}.',
    "{name} asked the {animal} why it was crying.",
  ),
  foodFact(0.1),
  part(
    '"I have lost my {food}," said the {animal}.',
    "The {animal} had lost all of its {food}.",
    "There was no {food} left for the {animal}.",
  ),
  part(
    "{name} wanted to help the {animal}.",
    '"I will help you," said {name}.',
    "{he} thought about it for a long time.",
  ),
  maybe(
    0.4,
    "First they looked {hiding}, but there was nothing.",
    "Then {friend} came and wanted to help too.",
    "{name} called {his} friend {friend}.",
  ),
  part(
    "At last they found the {food} {hiding}.",
    "In the end {name} gave the {animal} some {food}.",
    "Soon the {animal} had a big bowl of {food}.",
  ),
  part(
    "The {animal} ate the {food} and was happy again.",
    "The {animal} thanked {him} and danced.",
    '"Thank you for the {food}," said the {animal} to {name}.',
  ),
  ending,
  moral,
];

/** The animal has lost its way; it is brought home. */
const lost: readonly StoryPart[] = [
  hero,
  outing,
  part(
    "There {he} met a {animal} that had lost its way.",
    "At the {place} {he} saw a {animal} that was all alone.",
    "A worried {animal} was waiting {hiding}.",
  ),
  part(
    '"I cannot find my way home," said the {animal}.',
    "The {animal} did not know the way home.",
    '"Where is my home?" asked the {animal}.',
  ),
  homeFact(0.1),
  part(
    '"I will take you home," said {name}.',
    "{name} knew the way and went first.",
    "{he} took the {animal} by the hand.",
  ),
  maybe(
    0.4,
    "They walked past the {place} and over the bridge.",
    "It was {weather}, but they did not stop.",
    "On the way they met {friend}, who came along.",
  ),
  part(
    "At last they came to the {home} of the {animal}.",
    "Soon the {animal} was back in the {home}.",
    "In the end they saw the {home} from far away.",
  ),
  part(
    "The {animal} was happy to be in the {home} again.",
    '"Thank you," said the {animal} to {name}.',
    "The {animal} jumped for joy.",
  ),
  foodFact(0.6),
  ending,
  moral,
];

/** The toy is gone; the animal finds it. */
const toyLost: readonly StoryPart[] = [
  hero,
  toy(0),
  outing,
  part(
    "There the {thing} was gone.",
    "But {he} lost the {thing} on the way.",
    "The wind took the {thing} away.",
  ),
  part(
    "{name} looked {hiding}, but {he} found nothing.",
    "{he} sat down and cried.",
    "{name} was very sad about the {thing}.",
  ),
  part(
    "Then a {animal} came out of the {home}.",
    "A friendly {animal} heard {him} and came near.",
    '"Can I help you?" asked a {animal}.',
  ),
  homeFact(0.5),
  part(
    '"My {thing} is gone," said {name}.',
    "{name} told the {animal} about the {thing}.",
    "{he} asked the {animal} for help.",
  ),
  part(
    "The {animal} found the {color} {thing} {hiding}.",
    "They looked together and found the {thing} {hiding}.",
    "The {animal} ran away and came back with the {thing}.",
  ),
  part(
    "{name} laughed and gave the {animal} some {food}.",
    "{name} was so happy that {he} danced.",
    '"You are a good friend," said {name} to the {animal}.',
  ),
  foodFact(0.4),
  ending,
  moral,
];

/** Two friends visit the animal at its home. */
const visit: readonly StoryPart[] = [
  hero,
  part(
    "{his} best friend was {friend}.",
    "{name} and {friend} were always together.",
    "One day {friend} came to play with {him}.",
  ),
  part(
    "One {weather} {time} they wanted to visit a {animal}.",
    '"Let us visit the {animal}," said {friend}.',
    "They wanted to bring the {animal} some {food}.",
  ),
  homeFact(0),
  part(
    "So they walked to the {home}.",
    "The way to the {home} was long.",
    "They ran all the way to the {home}.",
  ),
  foodFact(0.2),
  part(
    "The {animal} was sleeping when they came.",
    "The {animal} was glad to see them.",
    '"Come in," said the {animal}.',
  ),
  part(
    "{name} gave the {animal} some {food}.",
    "{friend} put the {food} down {hiding}.",
    "They sat down and ate {food} together.",
  ),
  maybe(
    0.4,
    "Then they played with a {color} {thing}.",
    "The {animal} told them an old story.",
    "They sang and danced until the {time}.",
  ),
  ending,
  moral,
];

/** A storm comes; they wait in the animal's home. */
const storm: readonly StoryPart[] = [
  hero,
  toy(0.4),
  outing,
  part(
    "Suddenly there was a big storm.",
    "Then dark clouds came and it began to rain.",
    "A cold wind began to blow.",
  ),
  part("{name} was afraid and ran {hiding}.", "{he} could not go home.", "{name} did not know where to go."),
  part(
    '"Come with me," said a {animal}.',
    "A {animal} saw {him} and felt sorry.",
    "Just then {he} saw a {animal}.",
  ),
  homeFact(0.3),
  part(
    "They ran to the {home} and were safe.",
    "The {animal} took {name} to the {home}.",
    "In the {home} it was dry and warm.",
  ),
  part(
    "The {animal} shared its {food} with {name}.",
    "They ate some {food} and waited.",
    "{name} told the {animal} a story.",
  ),
  foodFact(0.6),
  part(
    "After a while the storm was over.",
    "Soon the sun came out again.",
    "When the rain stopped, they went outside.",
  ),
  ending,
  moral,
];

/** The plots: the parts of a story in order. */
export const PLOTS: readonly (readonly StoryPart[])[] = [hungry, lost, toyLost, visit, storm];
