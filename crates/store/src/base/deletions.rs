//! Deletion files: which rows of a fragment are deleted.
//!
//! They are bitmaps here, however few rows they hold. Lance writes a short list instead, reads it into a hash set, and
//! counts the deleted rows before a row by asking the set for each row before it. With a thousand deleted rows among a
//! million, the training of a vector index would take hours.

use cenote_base::{Error, Result};
use lance::dataset::fragment::FileFragment;
use lance_core::utils::deletion::DeletionVector;
use lance_table::format::Fragment;
use lance_table::io::deletion::write_deletion_file;
use roaring::RoaringBitmap;

use crate::errors::lance_error;

/// Returns the deleted rows of `file`, as offsets.
pub(crate) async fn read(file: &FileFragment) -> Result<RoaringBitmap> {
    let deleted = file.get_deletion_vector().await.map_err(lance_error)?;
    Ok(deleted.as_deref().map(RoaringBitmap::from).unwrap_or_default())
}

/// Writes a deletion file with the deleted rows of `file` and the rows at `offsets`. Returns the fragment that names
/// it; `None` if no row is left.
pub(crate) async fn extend(file: &FileFragment, offsets: impl IntoIterator<Item = u32>) -> Result<Option<Fragment>> {
    let mut deleted = read(file).await?;
    deleted.extend(offsets);
    let rows = file.physical_rows().await.map_err(lance_error)? as u64;
    if deleted.max().is_some_and(|last| u64::from(last) >= rows) {
        return Err(Error::internal(format!("a row past the {rows} rows of fragment {} was deleted", file.id())));
    }
    if deleted.len() == rows {
        return Ok(None);
    }
    let (dataset, fragment) = (file.dataset(), file.metadata().clone());
    let (place, version) = (dataset.branch_location().path, dataset.version().version);
    let store = dataset.object_store(None).await.map_err(lance_error)?;
    let deleted = DeletionVector::Bitmap(deleted);
    let written = write_deletion_file(&place, fragment.id, version, &deleted, &store).await;
    Ok(Some(Fragment { deletion_file: written.map_err(lance_error)?, ..fragment }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use lance_table::format::DeletionFileType;

    use super::*;
    use crate::{Store, StoreOptions, TableSpec};

    fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
        RecordBatch::try_from_iter([("id", ids)]).unwrap()
    }

    /// Written by a fold, and by a direct deletion.
    #[tokio::test]
    async fn deletion_files_are_bitmaps() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions { fold_rows: 10, ..StoreOptions::default() };
        let store = Store::open(directory.path(), options).await.unwrap();
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let table = store.create_table("t", TableSpec::new(schema, ["id"])).await.unwrap();
        table.upsert(rows(0..100)).await.unwrap();
        table.fold().await.unwrap();
        let check = async |expected: &[u32]| {
            let base = Arc::clone(table.snapshot().await.unwrap().base());
            let [fragment] = &base.get_fragments()[..] else { unreachable!("one file was written") };
            let file = fragment.metadata().deletion_file.as_ref().unwrap();
            assert_eq!(file.file_type, DeletionFileType::Bitmap);
            assert_eq!(read(fragment).await.unwrap().iter().collect::<Vec<_>>(), expected);
        };
        table.delete(&rows([3])).await.unwrap();
        table.fold().await.unwrap();
        check(&[3]).await;
        table.delete(&rows(20..30)).await.unwrap();
        check(&[&[3], &(20..30).collect::<Vec<_>>()[..]].concat()).await;
        table.delete(&rows(0..100)).await.unwrap();
        assert!(table.snapshot().await.unwrap().base().get_fragments().is_empty());
    }
}
