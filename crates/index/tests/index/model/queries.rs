//! Text queries as trees, and the scores of rows by a query, computed from the rows alone.

use std::collections::{BTreeMap, BTreeSet};

use cenote_base::Random;

use super::plain::{Rows, content_word, word, words};

/// Words that an English index leaves as they are; some are similar to words that rows have.
const MISSPELT: [&str; 9] = ["cra", "cart", "hos", "serch", "gren", "lihgt", "cafet", "step1", "step12"];
/// Words that a fuzzy word stands for, at most.
const EXPANSIONS_MAX: usize = 50;

#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    Word(String),
    Phrase(String),
    Fuzzy(String, Option<usize>),
    Group { must: Vec<Self>, should: Vec<Self>, must_not: Vec<Self> },
}

impl Query {
    pub fn any<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let should = words.into_iter().map(|word| Self::Word(word.to_owned())).collect();
        Self::Group { must: Vec::new(), should, must_not: Vec::new() }
    }

    pub fn all<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let must = words.into_iter().map(|word| Self::Word(word.to_owned())).collect();
        Self::Group { must, should: Vec::new(), must_not: Vec::new() }
    }

    /// Returns a random query; with `all_words`, one that can be written when all adjacent words are required.
    pub fn random(random: &mut Random, depth: usize, all_words: bool) -> Self {
        match random.below(if depth == 0 { 6 } else { 10 }) {
            0..=2 => Self::Word(word(random).to_owned()),
            3 => Self::Phrase(format!("{} {}", word(random), word(random))),
            4 | 5 => {
                let misspelt = MISSPELT[random.below(9) as usize];
                let word = if random.below(3) == 0 { content_word(random) } else { misspelt };
                Self::Fuzzy(word.to_owned(), [None, Some(1), Some(2)][random.below(3) as usize])
            }
            _ => {
                let mut parts = |max: u64| -> Vec<Self> {
                    (0..random.below(max + 1)).map(|_| Self::random(random, depth - 1, all_words)).collect()
                };
                let (must, mut should, must_not) = (parts(2), parts(3), parts(2));
                if must.is_empty() && should.is_empty() {
                    return Self::Word(word(random).to_owned());
                }
                match all_words {
                    true if !must.is_empty() => should.clear(),
                    true => return Self::Group { must, should, must_not: Vec::new() },
                    false => {}
                }
                Self::Group { must, should, must_not }
            }
        }
    }

    /// Writes the query as a user would, in a random one of the possible ways.
    pub fn written(&self, random: &mut Random, all_words: bool) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Phrase(phrase) => format!("\"{phrase}\""),
            Self::Fuzzy(word, edits) => format!("{word}~{}", edits.map_or_else(String::new, |edits| edits.to_string())),
            Self::Group { must, should, must_not } => {
                let mut part = |query: &Self| match query {
                    Self::Group { .. } => format!("({})", query.written(random, all_words)),
                    _ => query.written(random, all_words),
                };
                let must: Vec<String> = must.iter().map(&mut part).collect();
                let should: Vec<String> = should.iter().map(&mut part).collect();
                let must_not: Vec<String> = must_not.iter().map(&mut part).collect();
                let excluded =
                    must_not.iter().map(|part| format!(" {}{part}", ["-", "NOT "][random.below(2) as usize]));
                let excluded: Vec<String> = excluded.collect();
                let way = random.below(2);
                match (must.is_empty(), should.is_empty()) {
                    (true, _) if all_words || way == 0 => should.join(" OR ") + &excluded.concat(),
                    (true, _) => should.join(" ") + &excluded.concat(),
                    (false, true) if all_words && way == 0 => must.join(" ") + &excluded.concat(),
                    (false, true) if way == 1 => {
                        let excluded: Vec<String> = must_not.iter().map(|part| format!(" AND NOT {part}")).collect();
                        must.join(" AND ") + &excluded.concat()
                    }
                    _ => {
                        let must = must.iter().map(|part| format!("+{part} ")).collect::<String>();
                        must + &should.join(" ") + &excluded.concat()
                    }
                }
            }
        }
    }

    /// Returns whether the query has stop words only.
    fn is_empty(&self) -> bool {
        match self {
            Self::Word(text) | Self::Phrase(text) | Self::Fuzzy(text, _) => words(text).is_empty(),
            Self::Group { must, should, .. } => must.iter().chain(should).all(Self::is_empty),
        }
    }
}

type Words = Vec<(usize, String)>;

/// All live rows that have words.
struct Corpus {
    rows: Vec<(i64, Words)>,
    average: f64,
}

/// Returns the score of each row whose `column` matches `query`, as if all `rows` were in one index: BM25 with k1 = 1.2
/// and b = 0.75 over the rows that have words. Robertson, Zaragoza: "The Probabilistic Relevance Framework: BM25 and
/// Beyond", 2009.
pub fn scores(rows: &Rows, column: &str, query: &Query) -> BTreeMap<i64, f64> {
    let with_words = rows.iter().filter_map(|(id, row)| Some((*id, words(row.text(column)?))));
    let rows: Vec<(i64, Words)> = with_words.filter(|(_, own)| !own.is_empty()).collect();
    let average = rows.iter().map(|(_, own)| own.len()).sum::<usize>() as f64 / rows.len() as f64;
    let corpus = Corpus { rows, average };
    if query.is_empty() {
        return BTreeMap::new();
    }
    corpus.scores(query)
}

impl Corpus {
    fn rows_with(&self, word: &str) -> usize {
        self.rows.iter().filter(|(_, own)| times(own, word) > 0.0).count()
    }

    /// Returns the scores of rows by `word`, as if `rows_with` rows had it.
    fn scores_by(&self, word: &str, rows_with: usize) -> BTreeMap<i64, f64> {
        const K1: f64 = 1.2;
        const B: f64 = 0.75;
        let (count, with) = (self.rows.len() as f64, rows_with as f64);
        let weight = ((count - with + 0.5) / (with + 0.5) + 1.0).ln();
        let score = |own: &Words| {
            let length = K1 * (1.0 - B + B * own.len() as f64 / self.average);
            weight * times(own, word) * (K1 + 1.0) / (times(own, word) + length)
        };
        let with = self.rows.iter().filter(|(_, own)| times(own, word) > 0.0);
        with.map(|(id, own)| (*id, score(own))).collect()
    }

    fn scores(&self, query: &Query) -> BTreeMap<i64, f64> {
        match query {
            Query::Word(text) => words(text).first().map_or_else(BTreeMap::new, |(_, word)| self.word(word)),
            Query::Phrase(text) => self.phrase(&words(text)),
            Query::Fuzzy(text, edits) => self.fuzzy(&words(text)[0].1, *edits),
            Query::Group { must, should, must_not } => self.group(must, should, must_not),
        }
    }

    fn word(&self, word: &str) -> BTreeMap<i64, f64> {
        self.scores_by(word, self.rows_with(word))
    }

    fn phrase(&self, wanted: &Words) -> BTreeMap<i64, f64> {
        let parts: Vec<BTreeMap<i64, f64>> = wanted.iter().map(|(_, word)| self.word(word)).collect();
        let at = |own: &Words, place: usize, word: &String| own.iter().any(|own| own.0 == place && own.1 == *word);
        let has = |own: &Words| {
            own.iter().any(|(start, _)| wanted.iter().all(|(place, word)| at(own, start + place - wanted[0].0, word)))
        };
        let fitting = self.rows.iter().filter(|(_, own)| has(own));
        fitting.map(|(id, _)| (*id, parts.iter().map(|part| part[id]).sum())).collect()
    }

    /// Scores rows as Lucene does: the sum over similar words, each weighed by its similarity, all as common as the
    /// commonest.
    fn fuzzy(&self, word: &str, edits: Option<usize>) -> BTreeMap<i64, f64> {
        let max = edits.unwrap_or(match word.len() {
            0..=2 => 0,
            3..=5 => 1,
            _ => 2,
        });
        let known: BTreeSet<&String> = self.rows.iter().flat_map(|(_, own)| own.iter().map(|(_, word)| word)).collect();
        let mut similar: Vec<(f64, &String)> = Vec::new();
        for other in known {
            let (edits, shorter) = (edits_between(word, other), word.len().min(other.len()));
            if edits <= max && edits < shorter {
                similar.push((1.0 - edits as f64 / shorter as f64, other));
            }
        }
        similar.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        similar.truncate(EXPANSIONS_MAX);
        let rows_with = similar.iter().map(|(_, word)| self.rows_with(word)).max().unwrap_or(0);
        let parts = similar.iter().map(|(weight, word)| (*weight, self.scores_by(word, rows_with)));
        sum(parts)
    }

    fn group(&self, must: &[Query], should: &[Query], must_not: &[Query]) -> BTreeMap<i64, f64> {
        let (must, should) = (self.parts(must), self.parts(should));
        let must_not = self.parts(must_not);
        let is_needed = |id: &i64| match must.is_empty() {
            true => should.iter().any(|part| part.contains_key(id)),
            false => must.iter().all(|part| part.contains_key(id)),
        };
        let mut found = sum(must.iter().chain(&should).map(|part| (1.0, part.clone())));
        found.retain(|id, _| is_needed(id) && !must_not.iter().any(|part| part.contains_key(id)));
        found
    }

    /// Returns the scores by each of `queries`; a repeated word counts once.
    fn parts(&self, queries: &[Query]) -> Vec<BTreeMap<i64, f64>> {
        let mut known = BTreeSet::new();
        let is_new = |query: &&Query| match query {
            Query::Word(text) => known.insert(words(text)),
            _ => true,
        };
        queries.iter().filter(|query| !query.is_empty()).filter(is_new).map(|query| self.scores(query)).collect()
    }
}

fn times(own: &Words, word: &str) -> f64 {
    own.iter().filter(|(_, own)| own == word).count() as f64
}

fn sum(parts: impl Iterator<Item = (f64, BTreeMap<i64, f64>)>) -> BTreeMap<i64, f64> {
    let mut sum = BTreeMap::new();
    for (weight, part) in parts {
        for (id, score) in part {
            *sum.entry(id).or_insert(0.0) += weight * score;
        }
    }
    sum
}

/// Counts the edits between two words by the definition, without dynamic programming.
fn edits_between(a: &str, b: &str) -> usize {
    let mut reached: BTreeMap<(usize, usize), usize> = BTreeMap::from([((0, 0), 0)]);
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            let from = |i: Option<usize>, j: Option<usize>, cost: usize| Some(reached.get(&(i?, j?))? + cost);
            let differ = i > 0 && j > 0 && a.as_bytes()[i - 1] != b.as_bytes()[j - 1];
            let before = [
                from(i.checked_sub(1), Some(j), 1),
                from(Some(i), j.checked_sub(1), 1),
                from(i.checked_sub(1), j.checked_sub(1), usize::from(differ)),
            ];
            if let Some(least) = before.into_iter().flatten().min() {
                reached.insert((i, j), least);
            }
        }
    }
    reached[&(a.len(), b.len())]
}
