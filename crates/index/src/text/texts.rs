//! Texts in memory, split into words as an index does: those that no segment has, and those that are superseded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use cenote_base::Result;
use cenote_store::arrow_error;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{MemBM25Scorer, Scorer};

use super::fuzzy::WeightedWord;
use super::parse::WordRule;
use super::plan::{Node, Phrase, TextPlan};
use super::segment::{RowScore, ScoredExpansion, Statistics};
use crate::rows::row_set;
use crate::rows::runs::Run;

/// A row with a text.
#[derive(Debug, Clone, Copy)]
struct TextRow {
    row_id: u64,
    /// The number of words in the text.
    words: u32,
}

/// An occurrence of a word in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Occurrence {
    /// The position of the row among those of the [`Texts`].
    row: u32,
    /// The position of the word in the text.
    position: u32,
}

/// Texts of rows, by their words.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    rows: Vec<TextRow>,
    /// The number of words in all rows.
    words: u64,
    /// The occurrences of each word, in order.
    occurrences: HashMap<String, Vec<Occurrence>>,
    bytes: usize,
}

impl Texts {
    /// Appends the rows of `batch`, whose first column holds texts. A null text has no words.
    pub(super) fn read(&mut self, batch: &RecordBatch, tokenizer: &mut dyn LanceTokenizer) -> Result<()> {
        let row_ids = row_set::row_ids(batch)?;
        let texts = cast(batch.column(0), &DataType::LargeUtf8).map_err(arrow_error)?;
        for (row_id, text) in row_ids.iter().zip(texts.as_string::<i64>()) {
            let Some(text) = text else { continue };
            let (row, mut words) = (self.rows.len() as u32, 0);
            let mut stream = tokenizer.token_stream_for_doc(text);
            while let Some(token) = stream.next() {
                words += 1;
                let occurrence = Occurrence { row, position: token.position as u32 };
                match self.occurrences.get_mut(token.text.as_str()) {
                    Some(occurrences) => occurrences.push(occurrence),
                    None => {
                        self.bytes += token.text.len() + WORD_BYTES;
                        self.occurrences.insert(token.text.clone(), vec![occurrence]);
                    }
                }
                self.bytes += size_of::<Occurrence>();
            }
            if words > 0 {
                self.rows.push(TextRow { row_id: *row_id, words });
                self.words += u64::from(words);
                self.bytes += size_of::<TextRow>();
            }
        }
        Ok(())
    }

    fn occurrences(&self, word: &str) -> &[Occurrence] {
        self.occurrences.get(word).map_or(&[], Vec::as_slice)
    }

    /// Counts `terms` in all rows.
    pub(super) fn statistics(&self, terms: &[String]) -> Statistics {
        let rows_with = |term: &String| self.occurrences(term).chunk_by(|a, b| a.row == b.row).count();
        Statistics { rows: self.rows.len(), words: self.words, rows_with: terms.iter().map(rows_with).collect() }
    }
}

impl Run for Texts {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn append(&mut self, later: &Self) {
        let first = self.rows.len() as u32;
        self.rows.extend_from_slice(&later.rows);
        self.words += later.words;
        for (word, occurrences) in &later.occurrences {
            let moved = |occurrence: &Occurrence| Occurrence { row: first + occurrence.row, ..*occurrence };
            let occurrences = occurrences.iter().map(moved);
            match self.occurrences.get_mut(word) {
                Some(known) => {
                    known.extend(occurrences);
                    self.bytes -= word.len() + WORD_BYTES;
                }
                None => {
                    self.occurrences.insert(word.clone(), occurrences.collect());
                }
            }
        }
        self.bytes += later.bytes;
    }
}

/// Bytes that a word takes in a map, beside its letters and occurrences.
const WORD_BYTES: usize = 80;

/// The number of times that a row has a word of a query.
struct WordCount {
    /// The position of the word among those of [`UnindexedMatches`].
    word: u32,
    count: u32,
}

/// A row that no segment has, and that has words of a query.
struct UnindexedRow {
    row_id: u64,
    words: u32,
    /// The words of the query that the row has, in order.
    counts: Vec<WordCount>,
    /// The phrases of the query that the row has.
    phrases: Vec<usize>,
}

/// The rows that no segment has: those that have words of a query, and the statistics of all.
pub(super) struct UnindexedMatches {
    plan: Arc<TextPlan>,
    /// The plan's terms, followed by the words found that are similar to a fuzzy word.
    words: Vec<String>,
    found: Vec<UnindexedRow>,
    statistics: Statistics,
}

impl UnindexedMatches {
    pub(super) fn new(plan: Arc<TextPlan>) -> Self {
        let statistics = Statistics::none(plan.terms.len());
        Self { words: plan.terms.clone(), plan, found: Vec::new(), statistics }
    }

    /// Returns the counts of the plan's terms.
    pub(super) fn statistics(&self) -> Statistics {
        let rows_with = self.statistics.rows_with[..self.plan.terms.len()].to_vec();
        Statistics { rows_with, ..self.statistics }
    }

    /// Returns the words of the query and those similar to its fuzzy words, each with the number of rows that have it.
    pub(super) fn words(&self) -> HashMap<&str, usize> {
        self.words.iter().map(String::as_str).zip(self.statistics.rows_with.iter().copied()).collect()
    }

    /// Adds those of `texts` that are `live`.
    pub(super) fn add(&mut self, texts: &Texts, live: impl Fn(u64) -> bool) {
        for row in texts.rows.iter().filter(|row| live(row.row_id)) {
            self.statistics.rows += 1;
            self.statistics.words += u64::from(row.words);
        }
        self.find_similar(texts);
        // The counts of words, by row.
        let mut found: BTreeMap<u32, Vec<WordCount>> = BTreeMap::new();
        for (word, name) in self.words.iter().enumerate() {
            for occurrence in texts.occurrences(name) {
                let counts = found.entry(occurrence.row).or_default();
                match counts.last_mut() {
                    Some(last) if last.word == word as u32 => last.count += 1,
                    _ => counts.push(WordCount { word: word as u32, count: 1 }),
                }
            }
        }
        for (row, counts) in found {
            let TextRow { row_id, words } = texts.rows[row as usize];
            if !live(row_id) {
                continue;
            }
            counts.iter().for_each(|count| self.statistics.rows_with[count.word as usize] += 1);
            let phrases = (0..self.plan.phrases.len()).filter(|phrase| self.has_phrase(*phrase, row, texts)).collect();
            self.found.push(UnindexedRow { row_id, words, counts, phrases });
        }
    }

    /// Adds the words of `texts` that are similar to a fuzzy word.
    fn find_similar(&mut self, texts: &Texts) {
        if self.plan.fuzzy.is_empty() {
            return;
        }
        let known: HashSet<&str> = self.words.iter().map(String::as_str).collect();
        let is_similar = |word: &&String| self.plan.fuzzy.iter().any(|fuzzy| fuzzy.similarity(word).is_some());
        let new = texts.occurrences.keys().filter(|word| !known.contains(word.as_str())).filter(is_similar);
        let new: Vec<String> = new.cloned().collect();
        self.words.extend(new);
        self.statistics.rows_with.resize(self.words.len(), 0);
    }

    /// Returns whether the words of `phrase` follow one another in `row`.
    fn has_phrase(&self, phrase: usize, row: u32, texts: &Texts) -> bool {
        let Phrase { tokens, terms } = &self.plan.phrases[phrase];
        let occurrences = |token: usize| texts.occurrences(&self.words[terms[token]]);
        let first = occurrences(0);
        let of_row = &first[first.partition_point(|first| first.row < row)..];
        of_row.iter().take_while(|first| first.row == row).any(|first| {
            (0..tokens.len()).all(|token| {
                let position = (first.position + tokens.position(token)).checked_sub(tokens.position(0));
                position.is_some_and(|position| occurrences(token).binary_search(&Occurrence { row, position }).is_ok())
            })
        })
    }

    /// Returns the scores of the rows that match the query.
    pub(super) fn scores(&self, exact: &MemBM25Scorer, expansions: &[ScoredExpansion]) -> Vec<RowScore> {
        let numbers: HashMap<&str, u32> = self.words.iter().map(String::as_str).zip(0..).collect();
        let similar = |ScoredExpansion { expansion, scorer }: &ScoredExpansion| {
            let weighed = |WeightedWord { word, weight }: &WeightedWord| {
                Some((*numbers.get(word.as_str())?, weight * scorer.query_weight(word)))
            };
            expansion.words.iter().filter_map(weighed).collect()
        };
        let weights = Weights {
            plan: &self.plan,
            scorer: exact,
            exact: self.plan.terms.iter().map(|term| exact.query_weight(term)).collect(),
            similar: expansions.iter().map(similar).collect(),
        };
        let score = |row: &UnindexedRow| {
            let score = weights.score(&self.plan.root, row)?;
            Some(RowScore { row_id: row.row_id, score })
        };
        self.found.iter().filter_map(score).collect()
    }
}

/// The weights of the words of a query.
struct Weights<'a> {
    plan: &'a TextPlan,
    scorer: &'a MemBM25Scorer,
    /// The weights of the plan's terms.
    exact: Vec<f32>,
    /// For each fuzzy word, the words that it stands for, with their weights.
    similar: Vec<Vec<(u32, f32)>>,
}

impl Weights<'_> {
    /// Returns what a word of `weight` adds to the score of `row`, if the row has it.
    fn weigh(&self, word: u32, weight: f32, row: &UnindexedRow) -> Option<f32> {
        let at = row.counts.binary_search_by_key(&word, |count| count.word).ok()?;
        Some(weight * self.scorer.doc_weight(row.counts[at].count, row.words))
    }

    fn term(&self, term: usize, row: &UnindexedRow) -> Option<f32> {
        self.weigh(term as u32, self.exact[term], row)
    }

    /// Returns the score of `row` if it matches `node`.
    fn score(&self, node: &Node, row: &UnindexedRow) -> Option<f32> {
        match node {
            Node::Words(terms, WordRule::AnyWord) => any(terms.iter().map(|term| self.term(*term, row))),
            Node::Words(terms, WordRule::AllWords) => terms.iter().map(|term| self.term(*term, row)).sum(),
            // A word that is repeated in a phrase counts each time, as it does in an index.
            Node::Phrase(phrase) if row.phrases.contains(phrase) => {
                self.plan.phrases[*phrase].terms.iter().map(|term| self.term(*term, row)).sum()
            }
            Node::Phrase(_) => None,
            Node::Fuzzy(fuzzy) => {
                any(self.similar[*fuzzy].iter().map(|(word, weight)| self.weigh(*word, *weight, row)))
            }
            Node::Group(group) => {
                if group.must_not.iter().any(|node| self.score(node, row).is_some()) {
                    return None;
                }
                let must: f32 = group.must.iter().map(|node| self.score(node, row)).sum::<Option<f32>>()?;
                let should = any(group.should.iter().map(|node| self.score(node, row)));
                match group.must.is_empty() {
                    true => should,
                    false => Some(must + should.unwrap_or(0.0)),
                }
            }
        }
    }
}

/// Returns the sum of the scores that are present; `None` if there are none.
fn any(scores: impl Iterator<Item = Option<f32>>) -> Option<f32> {
    scores.flatten().reduce(|sum, score| sum + score)
}
