#![allow(clippy::unwrap_used)]

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
        ("a OR NOT b", "`NOT b` at character 6 is excluded after `OR`; write `car -red`"),
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
