//! Searches of one table: by vector, by text, or by both.

use arrow::array::RecordBatch;
use cenote_base::{Error, Result};
use cenote_index::{HybridQuery, Indexes, TextQuery, VectorQuery};
use cenote_store::{Filter, Snapshot};

/// A search for the best `k` rows of a table: by a vector, by a text, or by both, whose two rankings are then fused.
///
/// ```
/// use cenote_runtime::Search;
///
/// let cats = Search::new(10).text("cat -dog").filter("width >= 640").columns(["path", "caption"]);
/// let alike = Search::new(10).vector("embedding", vec![0.0; 384]);
/// let both = alike.clone().text_in("caption", "a cat on a sofa");
/// ```
#[derive(Debug, Clone)]
pub struct Search {
    vector: Option<Near>,
    text: Option<Words>,
    filter: Option<Filter>,
    k: usize,
    columns: Option<Vec<String>>,
}

/// A vector, and the column whose vectors are compared with it.
#[derive(Debug, Clone)]
struct Near {
    column: String,
    vector: Vec<f32>,
}

/// A text query, and the column that it searches; `None`: all that have a full-text index.
#[derive(Debug, Clone)]
struct Words {
    column: Option<String>,
    query: String,
}

impl Search {
    /// Makes a search for at most `k` rows. It needs a [`vector`](Self::vector), a [`text`](Self::text), or both.
    pub fn new(k: usize) -> Self {
        Self { vector: None, text: None, filter: None, k, columns: None }
    }

    /// Ranks rows by the distance of `column`, a column of vectors, from `vector`.
    pub fn vector(mut self, column: impl Into<String>, vector: Vec<f32>) -> Self {
        self.vector = Some(Near { column: column.into(), vector });
        self
    }

    /// Ranks rows by how well a column with a full-text index fits `query`. A row counts by its best column where
    /// several have an index.
    pub fn text(mut self, query: impl Into<String>) -> Self {
        self.text = Some(Words { column: None, query: query.into() });
        self
    }

    /// Ranks rows by how well `column`, which has a full-text index, fits `query`.
    pub fn text_in(mut self, column: impl Into<String>, query: impl Into<String>) -> Self {
        self.text = Some(Words { column: Some(column.into()), query: query.into() });
        self
    }

    /// Finds only rows that satisfy `filter`, which is applied before the search.
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// Answers with `columns` instead of with all.
    pub fn columns<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Runs the search over `snapshot`.
    pub(crate) async fn run(&self, indexes: &Indexes, snapshot: &Snapshot) -> Result<RecordBatch> {
        let vector = self.vector.as_ref().map(|near| VectorQuery {
            filter: self.filter.clone(),
            columns: self.columns.clone(),
            ..VectorQuery::new(&near.column, near.vector.clone(), self.k)
        });
        let text = self.text.as_ref().map(|words| TextQuery {
            column: words.column.clone(),
            filter: self.filter.clone(),
            columns: self.columns.clone(),
            ..TextQuery::new(&words.query, self.k)
        });
        match (vector, text) {
            (Some(vector), None) => Box::pin(indexes.vector_search(snapshot, &vector)).await,
            (None, Some(text)) => Box::pin(indexes.text_search(snapshot, &text)).await,
            (Some(vector), Some(text)) => {
                let query = HybridQuery { vector, text, k: self.k };
                Box::pin(indexes.hybrid_search(snapshot, &query)).await
            }
            (None, None) => Err(Error::invalid_input("a search needs a vector, a text, or both")),
        }
    }
}
