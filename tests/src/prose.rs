//! Comments that break the rules of English, as far as a program can tell.
//!
//! - A function's doc begins with a verb, not with an article, a pronoun, a preposition or a noun like `Rows`.
//! - A type's doc is a noun phrase: it does not begin with a question like `What`.
//! - `so many`, `so few`, `so much` and `so often` lead to a `that` or an `as`.
//! - `x is not an X` instead of `x is no X`; `there is no X` and `x is no longer` are right.
//! - A sentence does not begin with `Of` or `Such`.
//!
//! Code in comments, in backticks or between fences, is left out.

use std::fmt;
use std::ops::RangeInclusive;

use proc_macro2::{TokenStream, TokenTree};

/// First words of a function's doc that are not verbs.
const NOT_VERBS: &str = "The A An How What Where Whether Which When Who All For At In Of Its Their Such As If Each \
                         Every One Two Some No Not On By With From To Here There This That These It Bytes Rows Columns";
/// First words of a type's doc that ask instead of naming.
const QUESTIONS: &str = "What How Which Where Whether Who";
/// Words that may follow `is no`.
const COMPARATIVES: &str = "longer shorter more less fewer larger smaller greater higher lower wider better worse \
                            earlier later newer older nearer farther further faster slower";

/// A breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line of the word that breaks it.
    pub line: usize,
    /// The rule.
    pub rule: &'static str,
    /// The text of the line.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.rule, self.text)
    }
}

/// Finds the breaches in the source of a file, by line.
pub fn findings(source: &str) -> Vec<Finding> {
    let tokens: TokenStream = source.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut file = File::default();
    file.read(tokens);
    let lines: Vec<&str> = source.lines().collect();
    let mut found = file.first_words;
    found.extend(comments(&lines, &file.strings).iter().flat_map(|comment| broken_in(comment)));
    found.sort();
    let finding = |(line, rule): (usize, _)| Finding { line, rule, text: lines[line - 1].trim().to_owned() };
    found.into_iter().map(finding).collect()
}

/// A word of a comment. Code is one without text.
struct Word<'a> {
    text: &'a str,
    line: usize,
}

impl Word<'_> {
    /// Returns the word without punctuation around it, in lower case.
    fn plain(&self) -> String {
        self.text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
    }

    fn ends_sentence(&self) -> bool {
        self.text.ends_with(['.', '!', '?', ':', ';'])
    }
}

/// Returns the words of each block of comments in `lines`, without lines that are in `strings`.
fn comments<'a>(lines: &[&'a str], strings: &[RangeInclusive<usize>]) -> Vec<Vec<Word<'a>>> {
    let mut blocks = vec![Vec::new()];
    let mut fenced = false;
    for (line, text) in (1..).zip(lines) {
        let in_string = strings.iter().any(|lines| lines.contains(&line));
        let comment = text.trim_start().strip_prefix("//").filter(|_| !in_string);
        let Some(comment) = comment.map(|text| text.trim_start_matches(['/', '!']).trim()) else {
            fenced = false;
            blocks.push(Vec::new());
            continue;
        };
        if comment.starts_with("```") {
            fenced = !fenced;
        } else if comment.is_empty() || comment.starts_with(['-', '|', '#']) {
            blocks.push(Vec::new());
        }
        if fenced || comment.starts_with("```") {
            continue;
        }
        for (number, part) in comment.split('`').enumerate() {
            let code = Word { text: "", line };
            let words = part.split_whitespace().map(|text| Word { text, line });
            let block = blocks.last_mut().unwrap();
            if number % 2 == 1 { block.push(code) } else { block.extend(words) }
        }
    }
    blocks
}

/// Returns the rules that a block of comments breaks, whatever it describes, each with the line of the word.
fn broken_in(words: &[Word<'_>]) -> Vec<(usize, &'static str)> {
    let plain: Vec<String> = words.iter().map(Word::plain).collect();
    let at = |place: usize| plain.get(place).map_or("", String::as_str);
    let mut found = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let first = place == 0 || words[place - 1].ends_sentence();
        let (next, after) = (at(place + 1), at(place + 2));
        let rule = match at(place) {
            "so" if matches!(next, "many" | "few" | "much" | "often") && !matches!(after, "that" | "as") => {
                "`so many`, `so few`, `so much`, `so often` without `that` or `as`"
            }
            "is" | "are" | "was" | "were" if next == "no" && !(place > 0 && at(place - 1) == "there") => {
                // Code is not a noun, and `no` may be the last word.
                if after.is_empty() || words[place + 1].ends_sentence() || is_one_of(COMPARATIVES, after) {
                    continue;
                }
                "`is no X` instead of `is not an X`"
            }
            "of" | "such" if first && word.text.starts_with(char::is_uppercase) && next != "course" => {
                "a sentence that begins with `Of` or `Such`"
            }
            _ => continue,
        };
        found.push((word.line, rule));
    }
    found
}

/// The parts of a file that its tokens show.
#[derive(Default)]
struct File {
    /// The functions and types whose doc begins with a wrong word: the line of the word, and the rule.
    first_words: Vec<(usize, &'static str)>,
    /// The lines of each literal after its first.
    strings: Vec<RangeInclusive<usize>>,
}

impl File {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        // The first line of the doc of the item that comes next.
        let mut doc = None;
        let mut place = 0;
        while let Some(token) = tokens.get(place) {
            match (token, tokens.get(place + 1)) {
                (TokenTree::Punct(sign), Some(TokenTree::Group(attribute))) if sign.as_char() == '#' => {
                    doc = doc.or_else(|| doc_of(attribute.stream()).map(|word| (attribute.span().start().line, word)));
                    place += 1;
                }
                (TokenTree::Ident(word), _) => match word.to_string().as_str() {
                    "pub" | "const" | "async" | "unsafe" | "extern" => {}
                    item => {
                        let rule = doc.take().and_then(|(line, word): (_, String)| Some((line, rule_of(item, &word)?)));
                        self.first_words.extend(rule);
                    }
                },
                // The braces of an item and the parentheses of `pub(crate)`.
                (TokenTree::Group(group), _) => self.read(group.stream()),
                (TokenTree::Literal(literal), _) => {
                    let lines = literal.span().start().line + 1..=literal.span().end().line;
                    self.strings.extend(Some(lines).filter(|lines| !lines.is_empty()));
                }
                _ => {}
            }
            place += 1;
        }
    }
}

/// Returns the first word of an attribute that is a line of doc.
fn doc_of(attribute: TokenStream) -> Option<String> {
    let tokens: Vec<_> = attribute.into_iter().collect();
    let [TokenTree::Ident(word), _, TokenTree::Literal(text)] = tokens.as_slice() else { return None };
    let text = text.to_string();
    let text = text.trim_start_matches(['r', '#', '"']).trim_start();
    (word == "doc").then(|| text.chars().take_while(|c| c.is_alphabetic()).collect())
}

/// Returns the rule that `word` breaks at the start of the doc of an `item`, which is the keyword.
fn rule_of(item: &str, word: &str) -> Option<&'static str> {
    match item {
        "fn" if is_one_of(NOT_VERBS, word) => Some("a function's doc that does not begin with a verb"),
        "struct" | "enum" | "trait" | "type" if is_one_of(QUESTIONS, word) => {
            Some("a type's doc that is not a noun phrase")
        }
        _ => None,
    }
}

fn is_one_of(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|one| one == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(source: &str) -> Vec<(usize, &'static str)> {
        findings(source).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn a_function_begins_with_a_verb() {
        let rule = "a function's doc that does not begin with a verb";
        assert_eq!(
            rules("/// The rows of `a`.\n#[inline(\n    always\n)]\npub(crate) const unsafe fn f() {}"),
            [(1, rule)]
        );
        let in_macro = "macro! {\n impl S {\n /// Rows.\n ///\n /// # Errors\n async fn f() {}\n }}";
        assert_eq!(rules(in_macro), [(3, rule)]);
        assert!(
            rules("/// Returns the rows.\nfn f() {}\n/// Theirs.\nfn g() {}\n/// The rows.\nconst ROWS: usize = 1;")
                .is_empty()
        );
        assert!(rules("struct S {\n    /// The rows.\n    rows: fn() -> u32,\n}").is_empty());
    }

    #[test]
    fn a_type_is_a_noun_phrase() {
        let rule = "a type's doc that is not a noun phrase";
        assert_eq!(rules("/// What it is.\n#[derive(Debug)]\npub struct S;\n/// The rows.\nenum E {}"), [(1, rule)]);
        assert!(rules("enum E {\n    /// What it is.\n    A,\n}\nfn f() {}").is_empty());
    }

    #[test]
    fn so_many_leads_somewhere() {
        let rule = "`so many`, `so few`, `so much`, `so often` without `that` or `as`";
        assert_eq!(rules("// At most so many.\nfn f() {}\n//! So\n//! few rows."), [(1, rule), (3, rule)]);
        assert!(rules("// So many\n// that it ends. Not so much as this.").is_empty());
        assert!(rules("// `so many`\n//\n// ```\n// so few\n// ```\nconst A: &str = \"\n// so many\n\";").is_empty());
    }

    #[test]
    fn nothing_is_no_thing() {
        let rule = "`is no X` instead of `is not an X`";
        assert_eq!(rules("// It is\n// no number."), [(1, rule)]);
        assert!(rules("// There is no lock. It is no longer held, and the answer is no.\n// It is no `X`.").is_empty());
    }

    #[test]
    fn a_sentence_begins_with_its_subject() {
        let rule = "a sentence that begins with `Of` or `Such`";
        assert_eq!(rules("// Of a\n// row. Such\n// rows."), [(1, rule), (2, rule)]);
        assert!(rules("// Of course. The name\n// Of is a name.").is_empty());
    }
}
