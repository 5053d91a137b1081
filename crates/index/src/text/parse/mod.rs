//! The language of text queries: see [`TextQuery::query`](crate::TextQuery::query).
//!
//! ```text
//! any     = all { ["OR"] all }            all = clause { "AND" clause }
//! clause  = ["+" | "-" | "NOT"] operand
//! operand = word | word "~" [edits] | '"' words '"' | "(" any ")"
//! ```
//! When all words are wanted, clauses side by side are joined as by `AND` instead, and `OR` must be written.

use cenote_base::{Error, Result};

/// Parentheses may be nested so deep.
const DEPTH_MAX: usize = 32;
/// A query has so many operators, phrases and fuzzy words at most.
const PARTS_MAX: usize = 1024;
/// The most edits that a fuzzy word may ask for.
pub(crate) const EDITS_MAX: u32 = 2;

/// How clauses side by side are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    AnyWord,
    AllWords,
}

/// A query as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Written {
    /// Words side by side.
    Words(String),
    /// A word, and in how many letters another may differ from it; `None`: by its length.
    Fuzzy(String, Option<u32>),
    Phrase(String),
    Group(Group<Self>),
}

/// What rows must fit, what they should fit (one at least, when nothing must) and what they must not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group<T> {
    pub(crate) must: Vec<T>,
    pub(crate) should: Vec<T>,
    pub(crate) must_not: Vec<T>,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { must: Vec::new(), should: Vec::new(), must_not: Vec::new() }
    }
}

/// Reads `text`, in which clauses side by side are joined by `default`.
///
/// # Errors
/// `InvalidInput`, with the place and what would be right.
pub(crate) fn parse(text: &str, default: Fit) -> Result<Written> {
    let mut parser = Parser { text, default, parts: split(text)?, next: 0, depth: 0 };
    if parser.parts.is_empty() {
        return Err(Error::invalid_input("the text to search for is empty"));
    }
    let found = parser.positive()?;
    match parser.peek() {
        None => Ok(found),
        Some(_) => {
            let at = parser.place();
            Err(wrong(
                text,
                at,
                "closes a parenthesis that is not open",
                "leave it out, or write `\\)` for the character",
            ))
        }
    }
}

/// A query that finds the words of `text`, whatever characters are among them.
pub(crate) fn escape(text: &str) -> String {
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

fn wrong(text: &str, at: usize, what: &str, right: &str) -> Error {
    let part: String = text.chars().skip(at - 1).take(12).collect();
    Error::invalid_input(format!("text query: `{part}` at character {at} {what}; {right}"))
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
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

/// The parts of `text`, each with the number of its first character.
fn split(text: &str) -> Result<Vec<(usize, Part)>> {
    let letters: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    let (mut next, mut others) = (0, 0);
    while let Some(&letter) = letters.get(next) {
        let start = next;
        let starts_clause = start == 0 || letters[start - 1].is_whitespace() || "(+-".contains(letters[start - 1]);
        let is_followed = letters.get(start + 1).is_some_and(|after| !after.is_whitespace());
        next += 1;
        let part = match letter {
            _ if letter.is_whitespace() => continue,
            '(' => Part::Open,
            ')' => Part::Close,
            '+' if starts_clause && is_followed => Part::Plus,
            '-' if starts_clause && is_followed => Part::Minus,
            '"' => {
                let (phrase, end) = read_phrase(text, &letters, start)?;
                next = end;
                Part::Phrase(phrase)
            }
            _ => {
                let (word, end) = read_word(text, &letters, start)?;
                next = end;
                word
            }
        };
        others += usize::from(!matches!(part, Part::Word(_)));
        if others > PARTS_MAX {
            let says = format!("a text query has at most {PARTS_MAX} operators, phrases and fuzzy words");
            return Err(Error::invalid_input(says));
        }
        parts.push((start + 1, part));
    }
    Ok(parts)
}

/// The character that a backslash at `at` stands before.
fn escaped(text: &str, letters: &[char], at: usize) -> Result<char> {
    let after = letters.get(at + 1).copied();
    after.ok_or_else(|| wrong(text, at + 1, "has nothing after it", "write `\\\\` for the character"))
}

/// The phrase whose quote opens at `start`, and where the text goes on.
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

/// The word or operator that begins at `start`, and where the text goes on.
fn read_word(text: &str, letters: &[char], start: usize) -> Result<(Part, usize)> {
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
    let part = match tilde {
        Some((length, at)) if length > 0 && digits(&word[length + 1..]) => {
            let edits = match &word[length + 1..] {
                "" => None,
                edits => Some(edits.parse().ok().filter(|edits| *edits <= EDITS_MAX).ok_or_else(|| {
                    let what = format!("asks for {edits} edits");
                    wrong(text, at + 1, &what, "write `~1`, `~2`, or `~` for as many as fit the word's length")
                })?),
            };
            word.truncate(length);
            if edits == Some(0) { Part::Word(word) } else { Part::Fuzzy(word, edits) }
        }
        _ => match word.as_str() {
            "AND" if is_plain => Part::And,
            "OR" if is_plain => Part::Or,
            "NOT" if is_plain => Part::Not,
            _ => Part::Word(word),
        },
    };
    Ok((part, next))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sign {
    None,
    Must,
    MustNot,
}

struct Parser<'a> {
    text: &'a str,
    default: Fit,
    parts: Vec<(usize, Part)>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Part> {
        self.parts.get(self.next).map(|(_, part)| part)
    }

    /// The number of the first character of the next part, or of the last one.
    fn place(&self) -> usize {
        self.parts.get(self.next).or(self.parts.last()).map_or(1, |(at, _)| *at)
    }

    /// A list that says what to find, not only what not.
    fn positive(&mut self) -> Result<Written> {
        let start = self.place();
        match self.list(Fit::AnyWord)? {
            (Sign::MustNot, _) => Err(self.only_excludes(start)),
            (_, found) => Ok(found),
        }
    }

    fn only_excludes(&self, start: usize) -> Error {
        wrong(self.text, start, "only says what rows must not have", "add what they should have, as in `car -red`")
    }

    /// Clauses joined by `OR`, or by `AND`, and the sign of a single one.
    fn list(&mut self, fit: Fit) -> Result<(Sign, Written)> {
        let start = self.place();
        let operator = if fit == Fit::AnyWord { Part::Or } else { Part::And };
        let (mut group, mut count) = (Group::default(), 0);
        let last = loop {
            let is_joined = count > 0 && self.peek() == Some(&operator);
            self.next += usize::from(is_joined);
            let at = self.place();
            let (sign, clause) = if fit == Fit::AnyWord { self.list(Fit::AllWords)? } else { self.clause()? };
            if is_joined && fit == Fit::AnyWord && sign == Sign::MustNot {
                return Err(wrong(self.text, at, "is excluded after `OR`", "write `car -red`, without `OR`"));
            }
            count += 1;
            let is_needed = sign == Sign::Must || fit == Fit::AllWords;
            let clauses = match sign {
                Sign::MustNot => &mut group.must_not,
                _ if is_needed => &mut group.must,
                _ => &mut group.should,
            };
            // Words side by side are read as one text.
            match (clauses.last_mut(), clause) {
                (Some(Written::Words(before)), Written::Words(word))
                    if !is_joined && sign == Sign::None && count > 1 =>
                {
                    before.push(' ');
                    before.push_str(&word);
                }
                (_, clause) => clauses.push(clause),
            }
            let goes_on = match self.peek() {
                None | Some(Part::Close) => false,
                Some(part) if *part == operator => true,
                Some(Part::And | Part::Or) => fit == Fit::AnyWord,
                Some(_) => self.default == fit,
            };
            if !goes_on {
                break sign;
            }
        };
        let Group { must, should, must_not } = &mut group;
        if must.len() + should.len() + must_not.len() == 1
            && let Some(only) = must.pop().or_else(|| should.pop()).or_else(|| must_not.pop())
        {
            return Ok((last, only));
        }
        if must.is_empty() && should.is_empty() {
            return Err(self.only_excludes(start));
        }
        Ok((Sign::None, Written::Group(group)))
    }

    fn clause(&mut self) -> Result<(Sign, Written)> {
        let sign = match self.peek() {
            Some(Part::Plus) => Sign::Must,
            Some(Part::Minus | Part::Not) => Sign::MustNot,
            _ => return Ok((Sign::None, self.operand()?)),
        };
        self.next += 1;
        if matches!(self.peek(), Some(Part::Plus | Part::Minus | Part::Not)) {
            let right = "one sign is enough; for the character, put `\\` before it";
            return Err(wrong(self.text, self.place(), "is a second sign", right));
        }
        Ok((sign, self.operand()?))
    }

    fn operand(&mut self) -> Result<Written> {
        let at = self.place();
        let Some((_, part)) = self.parts.get(self.next).cloned() else {
            return Err(wrong(self.text, at, "needs something after it", "add a word, or quote it to search for it"));
        };
        self.next += 1;
        match part {
            Part::Word(word) => Ok(Written::Words(word)),
            Part::Fuzzy(word, edits) => Ok(Written::Fuzzy(word, edits)),
            Part::Phrase(phrase) => Ok(Written::Phrase(phrase)),
            Part::Open => self.parenthesis(at),
            Part::Close => Err(wrong(self.text, at, "comes where a word should", "put one before it, or write `\\)`")),
            Part::And | Part::Or | Part::Plus | Part::Minus | Part::Not => Err(wrong(
                self.text,
                at,
                "comes where a word should",
                "put one before it, or quote it to search for it",
            )),
        }
    }

    fn parenthesis(&mut self, at: usize) -> Result<Written> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let what = format!("is parenthesis {} inside another", self.depth);
            return Err(wrong(self.text, at, &what, &format!("nest at most {DEPTH_MAX}")));
        }
        if self.peek() == Some(&Part::Close) {
            return Err(wrong(self.text, at, "is empty", "put words into it, or write `\\(\\)` for the characters"));
        }
        if self.peek().is_none() {
            return Err(self.unclosed(at));
        }
        let found = self.positive()?;
        if self.peek() != Some(&Part::Close) {
            return Err(self.unclosed(at));
        }
        self.next += 1;
        self.depth -= 1;
        // Words in parentheses stay apart from those beside them.
        Ok(match found {
            Written::Words(_) => Written::Group(Group { should: vec![found], ..Group::default() }),
            found => found,
        })
    }

    fn unclosed(&self, at: usize) -> Error {
        wrong(self.text, at, "is not closed", "add `)`, or write `\\(` for the character")
    }
}

#[cfg(test)]
mod tests;
