#![allow(clippy::unwrap_used)]

use cenote_base::Random;

use super::*;

/// Writes a parsed query with all parentheses, and every clause with its sign.
fn shown(query: &ParsedQuery) -> String {
    match query {
        ParsedQuery::Words(words) => words.clone(),
        ParsedQuery::Fuzzy(word, edits) => {
            format!("{word}~{}", edits.map_or_else(String::new, |edits| edits.to_string()))
        }
        ParsedQuery::Phrase(phrase) => format!("\"{phrase}\""),
        ParsedQuery::Group(ClauseGroup { must, should, must_not }) => {
            let signed = |sign: &'static str, nodes: &[ParsedQuery]| -> Vec<String> {
                nodes.iter().map(|node| format!("{sign}[{}]", shown(node))).collect()
            };
            [signed("+", must), signed("", should), signed("-", must_not)].concat().join(" ")
        }
    }
}

#[test]
fn clauses_are_joined_as_they_are_written() {
    for (text, any, all) in [
        ("red car", "red car", "red car"),
        (" what's  C++? a-b - c~d ", "what's C++? a-b - c~d", "what's C++? a-b - c~d"),
        ("and or not Not", "and or not Not", "and or not Not"),
        ("red OR car", "[red] [car]", "[red] [car]"),
        ("red AND car", "+[red] +[car]", "+[red] +[car]"),
        ("red car AND big", "[red] [+[car] +[big]]", "+[red car] +[big]"),
        ("red car OR big", "[red car] [big]", "[red car] [big]"),
        ("a AND b OR c AND d", "[+[a] +[b]] [+[c] +[d]]", "[+[a] +[b]] [+[c] +[d]]"),
        ("red -car", "[red] -[car]", "+[red] -[car]"),
        ("red NOT car big", "[red big] -[car]", "+[red big] -[car]"),
        ("+red car", "+[red] [car]", "red car"),
        ("a AND NOT b", "+[a] -[b]", "+[a] -[b]"),
        ("-a AND b", "+[b] -[a]", "+[b] -[a]"),
        (
            "(red OR car) AND -(big \"old house\")",
            "+[[red] [car]] -[[big] [\"old house\"]]",
            "+[[red] [car]] -[+[big] +[\"old house\"]]",
        ),
        ("(red car) car", "[[red car]] [car]", "+[[red car]] +[car]"),
        ("print(x)", "[print] [[x]]", "+[print] +[[x]]"),
        ("colour~1 hous~ b~2", "[colour~1] [hous~] [b~2]", "+[colour~1] +[hous~] +[b~2]"),
        ("car~0", "car", "car"),
        ("~/x ~1", "~/x ~1", "~/x ~1"),
        (r#"\+a \-b \(c\) d\~1 \AND \\ \""#, r#"+a -b (c) d~1 AND \ ""#, r#"+a -b (c) d~1 AND \ ""#),
        (r#""a \"b\" (c" d"#, r#"["a "b" (c"] [d]"#, r#"+["a "b" (c"] +[d]"#),
        ("\"a\"", "\"a\"", "\"a\""),
        ("+\"a b\" -c~", "+[\"a b\"] -[c~]", "+[\"a b\"] -[c~]"),
        ("((a))", "[a]", "[a]"),
    ] {
        assert_eq!(shown(&parse(text, WordRule::AnyWord).unwrap()), any, "any of {text}");
        assert_eq!(shown(&parse(text, WordRule::AllWords).unwrap()), all, "all of {text}");
    }
}

#[test]
fn what_cannot_be_read_is_told_with_its_place_and_what_would_be_right() {
    for (text, says) in [
        ("", "the text to search for is empty"),
        (" \n", "the text to search for is empty"),
        ("a \"b c", "`\"b c` at character 3 opens a phrase that does not end; end the phrase with another"),
        ("ä (b", "`(b` at character 3 is not closed; add `)`"),
        ("a (", "`(` at character 3 is not closed"),
        ("(a (b c)", "`(a (b c)` at character 1 is not closed"),
        ("a)", "`)` at character 2 closes a parenthesis that is not open; leave it out, or write `\\)`"),
        ("a () b", "`() b` at character 3 is empty"),
        ("OR a", "`OR a` at character 1 comes where a word should"),
        ("a OR", "`OR` at character 3 needs something after it"),
        ("a AND OR b", "`OR b` at character 7 comes where a word should"),
        ("a AND )", "`)` at character 7 comes where a word should"),
        ("(a OR)", "`)` at character 6 comes where a word should"),
        ("NOT", "`NOT` at character 1 needs something after it"),
        ("-a", "`-a` at character 1 only says what rows must not have; add what they should have"),
        ("b (-a NOT c)", "`-a NOT c)` at character 4 only says what rows must not have"),
        ("a OR NOT b", "`NOT b` at character 6 is excluded beside `OR`; write `car -red`"),
        ("NOT a OR b", "`NOT a OR b` at character 1 is excluded beside `OR`; write `car -red`"),
        ("c (-a OR b)", "`-a OR b)` at character 4 is excluded beside `OR`"),
        ("--help", "`-help` at character 2 is a second sign"),
        ("a +-b", "`-b` at character 4 is a second sign"),
        ("colour~3", "`~3` at character 7 asks for 3 edits; write `~1`, `~2`"),
        ("\"a b\"~2", "`~2` at character 6 follows a phrase; only a word can be fuzzy"),
        ("a\\", "`\\` at character 2 has nothing after it"),
    ] {
        for rule in [WordRule::AnyWord, WordRule::AllWords] {
            let error = parse(text, rule).unwrap_err();
            assert!(error.message().contains(says), "{text:?}: {error}");
        }
    }
    let deep = format!("{}a{}", "(".repeat(33), ")".repeat(33));
    assert!(parse(&deep, WordRule::AnyWord).unwrap_err().message().contains("nest at most 32"));
    assert!(parse(&"a~ ".repeat(1_025), WordRule::AnyWord).unwrap_err().message().contains("at most 1024 operators"));
    assert!(parse(&"a ".repeat(5_000), WordRule::AnyWord).is_ok());
    let error = parse("a -b AND NOT c", WordRule::AnyWord).unwrap_err();
    assert!(error.message().contains("`-b AND NOT c` at character 3 only says"), "{error}");
    assert!(parse(&format!("{}a{}", "(".repeat(32), ")".repeat(32)), WordRule::AnyWord).is_ok());
}

#[test]
fn escaped_text_is_words_alone() {
    for text in ["a -b", "NOT (a OR", "\"a", "a~1 \\", "--help", "C++ +x"] {
        assert_eq!(parse(&escape(text), WordRule::AnyWord).unwrap(), ParsedQuery::Words(text.to_owned()));
    }
}

/// A clause of the grammar: a sign, and a word or a list in parentheses.
struct Written {
    sign: Sign,
    operand: Operand,
}

enum Operand {
    Word(char),
    Parenthesis(Vec<Joined>),
}

/// The clauses of an `all`, and whether an `OR` is written before it.
struct Joined {
    has_or: bool,
    clauses: Vec<Written>,
}

/// Draws an `any` of up to three `all`s of up to two clauses, as the grammar under `rule` has them.
fn draw(random: &mut Random, rule: WordRule, depth: usize) -> Vec<Joined> {
    let clause = |random: &mut Random| Written {
        sign: [Sign::None, Sign::None, Sign::None, Sign::Must, Sign::MustNot][random.below(5) as usize],
        operand: match random.below(4) {
            0 if depth > 0 => Operand::Parenthesis(draw(random, rule, depth - 1)),
            _ => Operand::Word((b'a' + random.below(4) as u8).into()),
        },
    };
    let last = random.below(3);
    let all = |number: u64| Joined {
        has_or: number > 0 && (rule == WordRule::AllWords || random.below(2) == 0),
        clauses: (0..=random.below(2)).map(|_| clause(random)).collect(),
    };
    (0..=last).map(all).collect()
}

fn written(any: &[Joined], rule: WordRule, random: &mut Random) -> String {
    let mut text = String::new();
    for Joined { has_or, clauses } in any {
        text.push_str(if *has_or { " OR" } else { "" });
        for (number, Written { sign, operand }) in clauses.iter().enumerate() {
            let is_joined = number > 0 && (rule == WordRule::AnyWord || random.below(2) == 0);
            text.push_str(if is_joined { " AND " } else { " " });
            text.push_str(match sign {
                Sign::None => "",
                Sign::Must => "+",
                Sign::MustNot => ["-", "NOT "][random.below(2) as usize],
            });
            match operand {
                Operand::Word(word) => text.push(*word),
                Operand::Parenthesis(any) => text.push_str(&format!("({})", written(any, rule, random))),
            }
        }
    }
    text
}

/// Returns whether `document` matches `any` by the words of the grammar; `None` where it is refused.
fn matches_written(any: &[Joined], document: &str) -> Option<bool> {
    let mut parts = Vec::new();
    for (number, Joined { has_or, clauses }) in any.iter().enumerate() {
        let mut found = Vec::new();
        for Written { sign, operand } in clauses {
            found.push(match operand {
                Operand::Word(word) => (*sign, document.contains(*word)),
                Operand::Parenthesis(any) => (*sign, matches_written(any, document)?),
            });
        }
        let is_excluding = found.iter().all(|(sign, _)| *sign == Sign::MustNot);
        let is_beside_or = *has_or || any.get(number + 1).is_some_and(|next| next.has_or);
        parts.push(match found.as_slice() {
            [(Sign::MustNot, _)] if is_beside_or => return None,
            [only] => *only,
            _ if is_excluding => return None,
            several => (Sign::None, several.iter().all(|(sign, has)| *has != (*sign == Sign::MustNot))),
        });
    }
    let of = |wanted: Sign| parts.iter().filter(move |(sign, _)| *sign == wanted).map(|(_, has)| *has);
    let is_wanted = match (of(Sign::Must).next(), of(Sign::None).next()) {
        (None, None) => return None,
        (Some(_), _) => of(Sign::Must).all(|has| has),
        (None, Some(_)) => of(Sign::None).any(|has| has),
    };
    Some(is_wanted && !of(Sign::MustNot).any(|has| has))
}

fn matches_parsed(query: &ParsedQuery, rule: WordRule, document: &str) -> bool {
    match query {
        ParsedQuery::Words(words) if rule == WordRule::AllWords => words.split(' ').all(|word| document.contains(word)),
        ParsedQuery::Words(words) => words.split(' ').any(|word| document.contains(word)),
        ParsedQuery::Group(ClauseGroup { must, should, must_not }) => {
            let matches = |part: &ParsedQuery| matches_parsed(part, rule, document);
            !must_not.iter().any(matches)
                && must.iter().all(matches)
                && (!must.is_empty() || should.iter().any(matches))
        }
        query => panic!("{query:?} was not written"),
    }
}

#[test]
fn a_query_finds_the_documents_that_the_grammar_says() {
    let mut refused = 0;
    for seed in 0..2_000 {
        let random = &mut Random::new(seed);
        let rule = [WordRule::AnyWord, WordRule::AllWords][random.below(2) as usize];
        let any = draw(random, rule, 2);
        let text = written(&any, rule, random);
        let parsed = parse(&text, rule);
        for set in 0..16 {
            let document: String = "abcd".chars().filter(|word| set >> (*word as u8 - b'a') & 1 == 1).collect();
            let found = parsed.as_ref().ok().map(|query| matches_parsed(query, rule, &document));
            assert_eq!(found, matches_written(&any, &document), "{rule:?} {text:?} in {document:?}: {parsed:?}");
        }
        refused += usize::from(parsed.is_err());
    }
    assert!((200..1_800).contains(&refused), "{refused}");
}
