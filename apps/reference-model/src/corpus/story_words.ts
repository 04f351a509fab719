const words = (text: string): readonly string[] => text.trim().split(/\s+/);

/** The grammar's other words by class. */
export const FUNCTION_WORDS: Readonly<Record<string, readonly string[]>> = {
  article: words("a an the"),
  pronoun: words(`
    he she his her him it its they them i you my me us who that everyone nothing anything all
  `),
  preposition: words(`
    to of in on by near with for from about under behind beside past over at out until away back along down
    than
  `),
  conjunction: words("and but when so why where while"),
  adverb: words(`
    there then once upon one every very much always never again soon suddenly too together alone at last
    first far just more not no after long ago outside home some left
  `),
  verb: words(`
    was were is are am be had have has went walked ran met saw said asked lost cannot can could did find
    found wanted wants want help will thought came come called looked gave ate eats thanked thank danced got
    told smiled learned forgot remembered lived lives named loved likes played play knows knew know sleeps
    sleeping sitting waiting waited crying cried take took stop stopped jumped gone sat heard laughed visit
    bring put let sang began rain blow go felt shared share ask try listen tell see
  `),
  adjective: words(`
    small best big hungry worried sad happy friendly good glad dark afraid sorry safe dry tall old patient
    cold warm
  `),
  noun: words(`
    child house day village food way hand bridge joy wind friend friends story storm clouds heart mother
    time bowl end sun others truth tree rock gate grass path
  `),
};
