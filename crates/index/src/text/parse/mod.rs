//! The language of text queries: see [`TextQuery::query`](crate::TextQuery::query).
//!
//! ```text
//! any     = all { ["OR"] all }            all = clause { "AND" clause }
//! clause  = ["+" | "-" | "NOT"] operand
//! operand = word | word "~" [edits] | '"' words '"' | "(" any ")"
//! ```
//! When all words are required, `any = all { "OR" all }` and `all = clause { ["AND"] clause }` instead.
//!
//! A row matches an `all` of several clauses if it matches each of them, and none of those after `-` or `NOT`. An `all`
//! of one clause has the sign of that clause. A row matches an `any` if it matches each `all` after `+`, or where there
//! is none, at least one `all` without a sign; and none of those after `-` or `NOT`. An `all` or an `any` that only
//! excludes rows is refused, as is an excluded one beside a written `OR`, which would read as a union and be none.

use cenote_base::{Error, Result};

/// The greatest depth of parentheses.
const DEPTH_MAX: usize = 32;
/// Operators, parentheses, phrases and fuzzy words in a query, at most.
const OPERATORS_MAX: usize = 1024;
/// Edits that a fuzzy word may allow, at most.
pub(super) const EDITS_MAX: u32 = 2;

/// The rule that joins adjacent clauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordRule {
    /// As by `OR`.
    AnyWord,
    /// As by `AND`.
    AllWords,
}

/// A parsed query, whose words are as they were written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ParsedQuery {
    /// Adjacent words.
    Words(String),
    /// A fuzzy word, and the most letters in which another may differ; `None`: by the length of the word.
    Fuzzy(String, Option<u32>),
    /// The words between two quotes.
    Phrase(String),
    /// Clauses joined by operators, or one text in parentheses.
    Group(ClauseGroup<Self>),
}

/// A group of clauses. Rows match all of `must`, none of `must_not`, and at least one of `should` if `must` is empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClauseGroup<T> {
    pub(super) must: Vec<T>,
    pub(super) should: Vec<T>,
    pub(super) must_not: Vec<T>,
}

impl<T> Default for ClauseGroup<T> {
    fn default() -> Self {
        Self { must: Vec::new(), should: Vec::new(), must_not: Vec::new() }
    }
}

/// Parses `text`, in which adjacent clauses are joined by `default`.
///
/// # Errors
/// `InvalidInput`, with the position and a correction.
pub(super) fn parse(text: &str, default: WordRule) -> Result<ParsedQuery> {
    let mut parser = Parser { text, default, lexemes: split(text)?, next: 0, depth: 0 };
    if parser.lexemes.is_empty() {
        return Err(Error::invalid_input("the text to search for is empty"));
    }
    let found = parser.positive()?;
    match parser.peek() {
        None => Ok(found),
        Some(_) => {
            let at = parser.position();
            Err(wrong(
                text,
                at,
                "closes a parenthesis that is not open",
                "leave it out, or write `\\)` for the character",
            ))
        }
    }
}

/// Escapes `text`, so that it parses as its words alone.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (at, word) in text.split(char::is_whitespace).enumerate() {
        escaped.extend((at > 0).then_some(' '));
        escaped.extend(matches!(word, "AND" | "OR" | "NOT").then_some('\\'));
        for letter in word.chars() {
            escaped.extend(matches!(letter, '\\' | '"' | '(' | ')' | '+' | '-' | '~').then_some('\\'));
            escaped.push(letter);
        }
    }
    escaped
}

/// Makes an error about the character number `at` of `text`.
fn wrong(text: &str, at: usize, what: &str, right: &str) -> Error {
    let excerpt: String = text.chars().skip(at - 1).take(12).collect();
    Error::invalid_input(format!("text query: `{excerpt}` at character {at} {what}; {right}"))
}

/// A word, phrase or operator of a query.
#[derive(Debug, Clone)]
struct Lexeme {
    /// The number of its first character, from 1.
    at: usize,
    kind: LexemeKind,
}

#[derive(Debug, Clone, PartialEq)]
enum LexemeKind {
    Word(String),
    Fuzzy(String, Option<u32>),
    Phrase(String),
    Open,
    Close,
    Plus,
    Minus,
    Not,
    And,
    Or,
}

/// Splits `text` into lexemes.
fn split(text: &str) -> Result<Vec<Lexeme>> {
    let letters: Vec<char> = text.chars().collect();
    let mut lexemes = Vec::new();
    let (mut next, mut operators) = (0, 0);
    while let Some(&letter) = letters.get(next) {
        let start = next;
        let starts_clause = start == 0 || letters[start - 1].is_whitespace() || "(+-".contains(letters[start - 1]);
        let is_followed = letters.get(start + 1).is_some_and(|after| !after.is_whitespace());
        next += 1;
        let kind = match letter {
            _ if letter.is_whitespace() => continue,
            '(' => LexemeKind::Open,
            ')' => LexemeKind::Close,
            '+' if starts_clause && is_followed => LexemeKind::Plus,
            '-' if starts_clause && is_followed => LexemeKind::Minus,
            '"' => {
                let (phrase, end) = read_phrase(text, &letters, start)?;
                next = end;
                LexemeKind::Phrase(phrase)
            }
            _ => {
                let (word, end) = read_word(text, &letters, start)?;
                next = end;
                word
            }
        };
        operators += usize::from(!matches!(kind, LexemeKind::Word(_)));
        if operators > OPERATORS_MAX {
            let limit = format!("at most {OPERATORS_MAX} operators, parentheses, phrases and fuzzy words");
            return Err(Error::invalid_input(format!("a text query has {limit}")));
        }
        lexemes.push(Lexeme { at: start + 1, kind });
    }
    Ok(lexemes)
}

/// Returns the character after the backslash at index `at`.
fn escaped(text: &str, letters: &[char], at: usize) -> Result<char> {
    let after = letters.get(at + 1).copied();
    after.ok_or_else(|| wrong(text, at + 1, "has nothing after it", "write `\\\\` for the character"))
}

/// Reads the phrase whose quote opens at `start`. Also returns the index after it.
fn read_phrase(text: &str, letters: &[char], start: usize) -> Result<(String, usize)> {
    let (mut phrase, mut next) = (String::new(), start + 1);
    loop {
        match letters.get(next) {
            Some('"') => break,
            Some('\\') => {
                phrase.push(escaped(text, letters, next)?);
                next += 2;
            }
            Some(letter) => {
                phrase.push(*letter);
                next += 1;
            }
            None => {
                let right = "end the phrase with another, or write `\\\"` for the character";
                return Err(wrong(text, start + 1, "opens a phrase that does not end", right));
            }
        }
    }
    if letters.get(next + 1) == Some(&'~') {
        return Err(wrong(text, next + 2, "follows a phrase", "only a word can be fuzzy: `word~1`"));
    }
    Ok((phrase, next + 1))
}

/// Reads the word or operator that begins at `start`. Also returns the index after it.
fn read_word(text: &str, letters: &[char], start: usize) -> Result<(LexemeKind, usize)> {
    let (mut word, mut next, mut tilde, mut is_plain) = (String::new(), start, None, true);
    while let Some(&letter) = letters.get(next) {
        if letter.is_whitespace() || matches!(letter, '"' | '(' | ')') {
            break;
        }
        if letter == '\\' {
            word.push(escaped(text, letters, next)?);
            (next, is_plain, tilde) = (next + 2, false, None);
            continue;
        }
        if letter == '~' {
            tilde = Some((word.len(), next));
        }
        word.push(letter);
        next += 1;
    }
    let digits = |tail: &str| tail.chars().all(|letter| letter.is_ascii_digit());
    let kind = match tilde {
        Some((length, at)) if length > 0 && digits(&word[length + 1..]) => {
            let edits = match &word[length + 1..] {
                "" => None,
                edits => Some(edits.parse().ok().filter(|edits| *edits <= EDITS_MAX).ok_or_else(|| {
                    let what = format!("asks for {edits} edits");
                    wrong(text, at + 1, &what, "write `~1`, `~2`, or `~` to go by the word's length")
                })?),
            };
            word.truncate(length);
            if edits == Some(0) { LexemeKind::Word(word) } else { LexemeKind::Fuzzy(word, edits) }
        }
        _ => match word.as_str() {
            "AND" if is_plain => LexemeKind::And,
            "OR" if is_plain => LexemeKind::Or,
            "NOT" if is_plain => LexemeKind::Not,
            _ => LexemeKind::Word(word),
        },
    };
    Ok((kind, next))
}

/// The sign before a clause.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    None,
    Must,
    MustNot,
}

struct Parser<'a> {
    text: &'a str,
    default: WordRule,
    lexemes: Vec<Lexeme>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&LexemeKind> {
        self.lexemes.get(self.next).map(|lexeme| &lexeme.kind)
    }

    /// Returns the number of the first character of the next lexeme, or of the last one.
    fn position(&self) -> usize {
        self.lexemes.get(self.next).or(self.lexemes.last()).map_or(1, |lexeme| lexeme.at)
    }

    /// Parses a list that does not only exclude rows.
    fn positive(&mut self) -> Result<ParsedQuery> {
        let start = self.position();
        match self.list(WordRule::AnyWord)? {
            (Sign::MustNot, _) => Err(self.only_excludes(start)),
            (_, found) => Ok(found),
        }
    }

    fn only_excludes(&self, start: usize) -> Error {
        wrong(self.text, start, "only says what rows must not have", "add what they should have, as in `car -red`")
    }

    /// Parses clauses joined by `OR`, or by `AND`. Also returns the sign of a single clause.
    fn list(&mut self, rule: WordRule) -> Result<(Sign, ParsedQuery)> {
        let start = self.position();
        let operator = if rule == WordRule::AnyWord { LexemeKind::Or } else { LexemeKind::And };
        let (mut group, mut count) = (ClauseGroup::default(), 0);
        let last = loop {
            let is_joined = count > 0 && self.peek() == Some(&operator);
            self.next += usize::from(is_joined);
            let at = self.position();
            let (sign, clause) =
                if rule == WordRule::AnyWord { self.list(WordRule::AllWords)? } else { self.clause()? };
            let is_beside_or = is_joined || self.peek() == Some(&operator);
            if is_beside_or && rule == WordRule::AnyWord && sign == Sign::MustNot {
                return Err(wrong(self.text, at, "is excluded beside `OR`", "write `car -red`, without `OR`"));
            }
            count += 1;
            let is_needed = sign == Sign::Must || rule == WordRule::AllWords;
            let clauses = match sign {
                Sign::MustNot => &mut group.must_not,
                _ if is_needed => &mut group.must,
                _ => &mut group.should,
            };
            // Adjacent words become one text.
            match (clauses.last_mut(), clause) {
                (Some(ParsedQuery::Words(before)), ParsedQuery::Words(word))
                    if !is_joined && sign == Sign::None && count > 1 =>
                {
                    before.push(' ');
                    before.push_str(&word);
                }
                (_, clause) => clauses.push(clause),
            }
            let goes_on = match self.peek() {
                None | Some(LexemeKind::Close) => false,
                Some(kind) if *kind == operator => true,
                Some(LexemeKind::And | LexemeKind::Or) => rule == WordRule::AnyWord,
                Some(_) => self.default == rule,
            };
            if !goes_on {
                break sign;
            }
        };
        let ClauseGroup { must, should, must_not } = &mut group;
        if must.len() + should.len() + must_not.len() == 1
            && let Some(only) = must.pop().or_else(|| should.pop()).or_else(|| must_not.pop())
        {
            return Ok((last, only));
        }
        if must.is_empty() && should.is_empty() {
            return Err(self.only_excludes(start));
        }
        Ok((Sign::None, ParsedQuery::Group(group)))
    }

    fn clause(&mut self) -> Result<(Sign, ParsedQuery)> {
        let sign = match self.peek() {
            Some(LexemeKind::Plus) => Sign::Must,
            Some(LexemeKind::Minus | LexemeKind::Not) => Sign::MustNot,
            _ => return Ok((Sign::None, self.operand()?)),
        };
        self.next += 1;
        if matches!(self.peek(), Some(LexemeKind::Plus | LexemeKind::Minus | LexemeKind::Not)) {
            let right = "one sign is enough; for the character, put `\\` before it";
            return Err(wrong(self.text, self.position(), "is a second sign", right));
        }
        Ok((sign, self.operand()?))
    }

    fn operand(&mut self) -> Result<ParsedQuery> {
        let at = self.position();
        let Some(Lexeme { kind, .. }) = self.lexemes.get(self.next).cloned() else {
            return Err(wrong(self.text, at, "needs something after it", "add a word, or quote it to search for it"));
        };
        self.next += 1;
        match kind {
            LexemeKind::Word(word) => Ok(ParsedQuery::Words(word)),
            LexemeKind::Fuzzy(word, edits) => Ok(ParsedQuery::Fuzzy(word, edits)),
            LexemeKind::Phrase(phrase) => Ok(ParsedQuery::Phrase(phrase)),
            LexemeKind::Open => self.parenthesis(at),
            LexemeKind::Close => {
                Err(wrong(self.text, at, "comes where a word should", "put one before it, or write `\\)`"))
            }
            LexemeKind::And | LexemeKind::Or | LexemeKind::Plus | LexemeKind::Minus | LexemeKind::Not => Err(wrong(
                self.text,
                at,
                "comes where a word should",
                "put one before it, or quote it to search for it",
            )),
        }
    }

    fn parenthesis(&mut self, at: usize) -> Result<ParsedQuery> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let what = format!("is parenthesis {} inside another", self.depth);
            return Err(wrong(self.text, at, &what, &format!("nest at most {DEPTH_MAX}")));
        }
        if self.peek() == Some(&LexemeKind::Close) {
            return Err(wrong(self.text, at, "is empty", "put words into it, or write `\\(\\)` for the characters"));
        }
        if self.peek().is_none() {
            return Err(self.unclosed(at));
        }
        let found = self.positive()?;
        if self.peek() != Some(&LexemeKind::Close) {
            return Err(self.unclosed(at));
        }
        self.next += 1;
        self.depth -= 1;
        // Words in parentheses are not joined with adjacent ones.
        Ok(match found {
            ParsedQuery::Words(_) => ParsedQuery::Group(ClauseGroup { should: vec![found], ..ClauseGroup::default() }),
            found => found,
        })
    }

    fn unclosed(&self, at: usize) -> Error {
        wrong(self.text, at, "is not closed", "add `)`, or write `\\(` for the character")
    }
}

#[cfg(test)]
mod tests;
