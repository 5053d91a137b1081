//! The sizes of the files of a base, including the media in files beside them.

use std::collections::{HashMap, HashSet};

use cenote_base::Result;
use cenote_base::sync::Mutex;
use futures::TryStreamExt;
use lance::Dataset;
use lance_table::format::{DataFile, Fragment};

use crate::base::media;
use crate::errors::lance_error;

/// A cache of the sizes of media beside data files; neither ever changes.
#[derive(Debug, Default)]
pub(crate) struct FileBytes {
    /// Bytes of media, by the path of the data file.
    beside: Mutex<HashMap<String, u64>>,
}

impl FileBytes {
    /// Returns the bytes of `fragment`, which belongs to `base` or was written for it.
    pub(crate) async fn of(&self, base: &Dataset, fragment: &Fragment) -> Result<u64> {
        let mut bytes = 0;
        for file in &fragment.files {
            bytes += self.of_file(base, file).await?;
        }
        Ok(bytes)
    }

    /// Returns the bytes of the files that `new` has and `old` does not.
    pub(crate) async fn added(&self, old: &Dataset, new: &Dataset) -> Result<u64> {
        let files = |base: &Dataset| base.fragments().iter().flat_map(|fragment| fragment.files.clone()).collect();
        let known: Vec<DataFile> = files(old);
        let known: HashSet<String> = known.into_iter().map(|file| file.path).collect();
        let mut bytes = 0;
        let all: Vec<DataFile> = files(new);
        for file in all.iter().filter(|file| !known.contains(&file.path)) {
            bytes += self.of_file(new, file).await?;
        }
        // Removed files are not asked for again.
        let paths: HashSet<&str> = all.iter().map(|file| file.path.as_str()).collect();
        self.beside.lock().retain(|path, _| paths.contains(path.as_str()));
        Ok(bytes)
    }

    async fn of_file(&self, base: &Dataset, file: &DataFile) -> Result<u64> {
        let bytes = file.file_size_bytes.get().map_or(0, u64::from);
        let has_media = base.schema().fields.iter().any(|field| field.is_blob() && file.fields.contains(&field.id));
        if !has_media {
            return Ok(bytes);
        }
        let known = self.beside.lock().get(&file.path).copied();
        if let Some(beside) = known {
            return Ok(bytes + beside);
        }
        let store = base.object_store(None).await.map_err(lance_error)?;
        let sizes = store.list(Some(media::folder(base, file))).map_ok(|found| found.size);
        let beside = sizes.try_fold(0, |sum, size| async move { Ok(sum + size) }).await.map_err(lance_error)?;
        self.beside.lock().insert(file.path.clone(), beside);
        Ok(bytes + beside)
    }
}
