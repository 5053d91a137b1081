//! Texts that no index has seen, read as an index would.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use cenote_base::{Error, Result};
use cenote_store::arrow_error;
use futures::{Stream, TryStreamExt};
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

/// A row that an index has not seen, and that fits.
struct LateRow {
    row_id: u64,
    words: u32,
    times: Vec<u32>,
}

/// The rows that no index has seen.
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

    /// Takes in rows: their text, and their row ids.
    pub(crate) fn read(&mut self, batch: &RecordBatch, tokenizer: &mut dyn LanceTokenizer) -> Result<()> {
        let row_ids = live::row_ids(batch)?;
        let texts = cast(batch.column(0), &DataType::LargeUtf8);
        let texts = texts.map_err(arrow_error)?;
        let texts = texts.as_string::<i64>();
        let numbers: HashMap<String, usize> = self.terms.unique.iter().cloned().zip(0..).collect();
        for (row_id, text) in row_ids.iter().zip(texts) {
            let Some(text) = text else { continue };
            let mut row = LateRow { row_id: *row_id, words: 0, times: vec![0; numbers.len()] };
            let mut places: Vec<(usize, usize)> = Vec::new();
            let mut stream = tokenizer.token_stream_for_doc(text);
            while let Some(token) = stream.next() {
                row.words += 1;
                if let Some(term) = numbers.get(&token.text) {
                    row.times[*term] += 1;
                    places.push((token.position, *term));
                }
            }
            self.statistics.rows += usize::from(row.words > 0);
            self.statistics.words += u64::from(row.words);
            self.statistics
                .rows_with
                .iter_mut()
                .zip(&row.times)
                .for_each(|(rows, times)| *rows += usize::from(*times > 0));
            if self.fits(&row, &places, &numbers) {
                self.fitting.push(row);
            }
        }
        Ok(())
    }

    fn fits(&self, row: &LateRow, places: &[(usize, usize)], numbers: &HashMap<String, usize>) -> bool {
        match self.terms.fit {
            Fit::AnyWord => !places.is_empty(),
            Fit::AllWords => row.times.iter().all(|times| *times > 0),
            Fit::Phrase => places.iter().any(|(start, _)| {
                let tokens = &self.terms.tokens;
                (0..tokens.len()).all(|token| {
                    let place = start + tokens.position(token) as usize - tokens.position(0) as usize;
                    numbers.get(tokens.get_token(token)).is_some_and(|term| places.contains(&(place, *term)))
                })
            }),
        }
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

/// Reads all of `batches`, which hold texts and row ids, off the threads of the async runtime.
pub(crate) async fn read_late(
    mut rows: LateRows,
    tokenizer: Box<dyn LanceTokenizer>,
    mut batches: impl Stream<Item = Result<RecordBatch>> + Unpin,
) -> Result<LateRows> {
    while let Some(batch) = batches.try_next().await? {
        let mut tokenizer = tokenizer.box_clone();
        let read = move || rows.read(&batch, tokenizer.as_mut()).map(|()| rows);
        let done = tokio::task::spawn_blocking(read).await;
        rows = done.map_err(|source| Error::internal("a search ended early").with_source(source))??;
    }
    Ok(rows)
}
