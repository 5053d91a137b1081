//! The live rows of a base, by whether an index covers their fragment.

use std::sync::Arc;

use cenote_base::Result;
use cenote_store::blocking;
use lance::dataset::scanner::RowAddrTreeMap;
use roaring::RoaringBitmap;

use super::fragments::{Fragment, Fragments, rows_of};

/// The live rows of a base, divided by whether an index covers their fragment.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// The live rows of the fragments that the index covers.
    pub(crate) covered: RowAddrTreeMap,
    /// The live rows of the other fragments.
    pub(crate) uncovered: RowAddrTreeMap,
    pub(crate) uncovered_fragments: Vec<Fragment>,
}

impl Coverage {
    /// Divides `fragments` by whether their id is in `covered`.
    pub(crate) async fn new(fragments: &Arc<Fragments>, covered: RoaringBitmap) -> Result<Self> {
        let fragments = Arc::clone(fragments);
        blocking(move || {
            let uncovered_fragments = fragments.without(&covered);
            let uncovered = rows_of(&uncovered_fragments);
            Ok(Self { covered: rows_of(&fragments.of(&covered)), uncovered, uncovered_fragments })
        })
        .await
    }
}
