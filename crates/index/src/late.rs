//! Texts that no index has seen, read as an index would.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use cenote_base::Result;
use cenote_store::arrow_error;
use lance_index::scalar::inverted::query::Tokens;
use lance_index::scalar::inverted::tokenizer::document_tokenizer::LanceTokenizer;
use lance_index::scalar::inverted::{MemBM25Scorer, Scorer};

use crate::corpus::Statistics;
use crate::live;

/// What rows need to fit a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    AnyWord,
    AllWords,
    Phrase,
}

/// A query as its index reads it.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) tokens: Arc<Tokens>,
    /// The words of `tokens`, each once.
    pub(crate) unique: Vec<String>,
    pub(crate) fit: Fit,
}

impl Terms {
    /// The words of a query, as `tokens`.
    pub(crate) fn new(tokens: Tokens, fit: Fit) -> Self {
        let mut unique: Vec<String> = Vec::new();
        for token in &tokens {
            if !unique.iter().any(|known| known == token) {
                unique.push(token.to_owned());
            }
        }
        Self { tokens: Arc::new(tokens), unique, fit }
    }

    /// What an index is to look for: a word that stands twice counts once, but in a phrase.
    pub(crate) fn searched(&self) -> Arc<Tokens> {
        match self.fit {
            Fit::Phrase => Arc::clone(&self.tokens),
            Fit::AnyWord | Fit::AllWords => {
                Arc::new(Tokens::new(self.unique.clone(), self.tokens.token_type().clone()))
            }
        }
    }
}

/// Texts that no index has seen, by their words.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// Row ids, and how many words each row has.
    rows: Vec<(u64, u32)>,
    /// For each word, in which rows of `rows` it stands, and where in the text; in order.
    places: HashMap<String, Vec<(u32, u32)>>,
    bytes: usize,
}

impl Texts {
    /// Takes in rows: their text, and their row ids. A row without a text has no words.
    pub(crate) fn read(&mut self, batch: &RecordBatch, tokenizer: &mut dyn LanceTokenizer) -> Result<()> {
        let row_ids = live::row_ids(batch)?;
        let texts = cast(batch.column(0), &DataType::LargeUtf8).map_err(arrow_error)?;
        for (row_id, text) in row_ids.iter().zip(texts.as_string::<i64>()) {
            let Some(text) = text else { continue };
            let (row, mut words) = (self.rows.len() as u32, 0);
            let mut stream = tokenizer.token_stream_for_doc(text);
            while let Some(token) = stream.next() {
                words += 1;
                let place = (row, token.position as u32);
                match self.places.get_mut(token.text.as_str()) {
                    Some(places) => places.push(place),
                    None => {
                        self.bytes += token.text.len() + WORD_BYTES;
                        self.places.insert(token.text.clone(), vec![place]);
                    }
                }
                self.bytes += size_of_val(&place);
            }
            if words > 0 {
                self.rows.push((*row_id, words));
                self.bytes += size_of::<(u64, u32)>();
            }
        }
        Ok(())
    }

    /// About how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a word takes in a map, beside its letters and places.
const WORD_BYTES: usize = 80;

/// A row that an index has not seen, and that fits.
struct LateRow {
    row_id: u64,
    words: u32,
    times: Vec<u32>,
}

/// Of the rows that no index has seen: those that fit a query, and the statistics of all.
pub(crate) struct LateRows {
    terms: Terms,
    fitting: Vec<LateRow>,
    statistics: Statistics,
}

impl LateRows {
    pub(crate) fn new(terms: Terms) -> Self {
        let statistics = Statistics { rows: 0, words: 0, rows_with: vec![0; terms.unique.len()] };
        Self { terms, fitting: Vec::new(), statistics }
    }

    pub(crate) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Takes in those of `texts` that are `live`.
    pub(crate) fn add(&mut self, texts: &Texts, live: impl Fn(u64) -> bool) {
        for (_, words) in texts.rows.iter().filter(|(row_id, _)| live(*row_id)) {
            self.statistics.rows += 1;
            self.statistics.words += u64::from(*words);
        }
        let none = Vec::new();
        let terms: Vec<&Vec<(u32, u32)>> =
            self.terms.unique.iter().map(|term| texts.places.get(term).unwrap_or(&none)).collect();
        // By row: how often it has each word.
        let mut found: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (term, places) in terms.iter().enumerate() {
            for (row, _) in places.iter() {
                found.entry(*row).or_insert_with(|| vec![0; terms.len()])[term] += 1;
            }
        }
        for (row, times) in found {
            let (row_id, words) = texts.rows[row as usize];
            if !live(row_id) {
                continue;
            }
            self.statistics.rows_with.iter_mut().zip(&times).for_each(|(rows, times)| *rows += usize::from(*times > 0));
            let fits = match self.terms.fit {
                Fit::AnyWord => true,
                Fit::AllWords => times.iter().all(|times| *times > 0),
                Fit::Phrase => self.has_phrase(row, &terms),
            };
            if fits {
                self.fitting.push(LateRow { row_id, words, times });
            }
        }
    }

    /// Whether the query's words stand in `row` one after the other; `places` are those of each of its unique words.
    fn has_phrase(&self, row: u32, places: &[&Vec<(u32, u32)>]) -> bool {
        let tokens = &self.terms.tokens;
        let places_of = |token: usize| {
            let word = tokens.get_token(token);
            self.terms.unique.iter().position(|term| term == word).map(|term| places[term])
        };
        let Some(first) = places_of(0) else { return false };
        let of_row = first.iter().filter(|(other, _)| *other == row);
        of_row.into_iter().any(|(_, start)| {
            (0..tokens.len()).all(|token| {
                let place = (row, start + tokens.position(token) - tokens.position(0));
                places_of(token).is_some_and(|places| places.binary_search(&place).is_ok())
            })
        })
    }

    /// The scores of the rows that fit.
    pub(crate) fn scores<'a>(&'a self, scorer: &'a MemBM25Scorer) -> impl Iterator<Item = (u64, f32)> + 'a {
        let searched = self.terms.searched();
        // A word that a phrase has twice weighs twice, as it does in an index.
        let times = |term: &String| searched.as_ref().into_iter().filter(|token| *token == term).count() as f32;
        let weight = |term: &String| times(term) * scorer.query_weight(term);
        let weights: Vec<f32> = self.terms.unique.iter().map(weight).collect();
        self.fitting.iter().map(move |row| {
            let parts = row.times.iter().zip(&weights).filter(|(times, _)| **times > 0);
            let score = parts.map(|(times, weight)| weight * scorer.doc_weight(*times, row.words)).sum();
            (row.row_id, score)
        })
    }
}
