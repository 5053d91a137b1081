//! Ingest: files become rows, one each, keyed by path. A file whose bytes did not change is not written again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, LargeBinaryArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use cenote_base::{ByteSize, Context, Error, ErrorKind, Progress, Result};
use cenote_store::{ScanRequest, Store, Table, TableSpec, blob_field, blocking};
use sha2::{Digest, Sha256};

/// The outcome of an ingest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Files found.
    pub files: usize,
    /// Files that were new.
    pub inserted: usize,
    /// Files whose bytes had changed.
    pub updated: usize,
    /// Files whose bytes the table had already.
    pub unchanged: usize,
    /// Files that could not be read.
    pub skipped: Vec<SkippedFile>,
}

/// A file that an ingest could not read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SkippedFile {
    /// The file's path.
    pub path: PathBuf,
    /// The reason why it could not be read.
    pub reason: String,
}

/// Returns the columns of a table of files: `path` (the key, as given, with `/` between parts), `name`, `kind` (by
/// content: `image`, `video`, `audio`, `text` or `other`), `size` in bytes, `modified`, `content_hash` (SHA-256,
/// hexadecimal) and `data`.
pub fn media_schema() -> SchemaRef {
    let text = |name, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("path", false),
        text("name", true),
        text("kind", true),
        Field::new("size", DataType::Int64, true),
        Field::new("modified", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        text("content_hash", true),
        blob_field("data"),
    ]))
}

/// Files of one commit.
#[derive(Default)]
struct Pending {
    files: Vec<File>,
    bytes: u64,
}

struct File {
    path: String,
    modified_us: Option<i64>,
    content_hash: String,
    data: Vec<u8>,
}

/// Writes the files at `paths`, and those under them, to table `name`, which is created if it does not exist.
pub(crate) async fn ingest(
    store: &Store,
    name: &str,
    paths: &[PathBuf],
    commit_bytes_max: ByteSize,
    progress: &dyn Progress,
) -> Result<IngestReport> {
    let mut report = IngestReport::default();
    let roots = paths.to_vec();
    let files = blocking(move || walk(&roots)).await?;
    let table = open(store, name).await?;
    let known = known_hashes(&table).await?;
    let stage = format!("{name}: ingest");
    progress.begin(&stage, Some(files.len() as u64));
    let mut pending = Pending::default();
    for path in files {
        report.files += 1;
        let file_path = path.clone();
        // A file larger than one commit is refused before it is read: it would exceed the memory budget.
        match blocking(move || read(&file_path, commit_bytes_max)).await {
            Ok(file) if known.get(&file.path) == Some(&file.content_hash) => report.unchanged += 1,
            Ok(file) => {
                if pending.bytes + file.data.len() as u64 > commit_bytes_max.0 {
                    commit(&table, std::mem::take(&mut pending), &mut report).await?;
                }
                pending.bytes += file.data.len() as u64;
                pending.files.push(file);
            }
            Err(error) => report.skipped.push(SkippedFile { path, reason: error.to_string() }),
        }
        progress.advance(&stage, 1);
    }
    commit(&table, pending, &mut report).await?;
    progress.end(&stage);
    Ok(report)
}

async fn open(store: &Store, name: &str) -> Result<Table> {
    let table = match store.table(name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return store.create_table(name, TableSpec::new(media_schema(), ["path"])).await;
        }
        table => table?,
    };
    let snapshot = table.snapshot().await?;
    let lacking: Vec<String> = media_schema()
        .fields()
        .iter()
        .filter(|field| snapshot.schema().field_with_name(field.name()).is_err())
        .map(|field| field.name().clone())
        .collect();
    if snapshot.primary_key().columns() != ["path"] || !lacking.is_empty() {
        return Err(Error::invalid_input(format!(
            "table `{name}` is not a table of files (it lacks {}): choose another name",
            if lacking.is_empty() { "the primary key `path`".to_owned() } else { lacking.join(", ") }
        )));
    }
    Ok(table)
}

async fn known_hashes(table: &Table) -> Result<HashMap<String, String>> {
    let rows = table.snapshot().await?.collect(&ScanRequest::default().columns(["path", "content_hash"])).await?;
    let (paths, hashes) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
    Ok(paths.iter().zip(hashes).filter_map(|(path, hash)| Some((path?.to_owned(), hash?.to_owned()))).collect())
}

/// Lists every regular file at or under `roots`, sorted. Hidden files and directories below a root are passed over.
fn walk(roots: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = roots.to_vec();
    while let Some(path) = open.pop() {
        let metadata = std::fs::metadata(&path).context(|| format!("read {}", path.display()))?;
        if !metadata.is_dir() {
            files.push(path);
            continue;
        }
        for entry in std::fs::read_dir(&path).context(|| format!("list {}", path.display()))? {
            let entry = entry.context(|| format!("list {}", path.display()))?;
            // Symbolic links below a root are not followed: a cycle of links would never end.
            let is_link = entry.file_type().is_ok_and(|file_type| file_type.is_symlink());
            if !is_link && !entry.file_name().to_string_lossy().starts_with('.') {
                open.push(entry.path());
            }
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn read(path: &Path, bytes_max: ByteSize) -> Result<File> {
    let key = path
        .to_str()
        .ok_or_else(|| Error::invalid_input("the path is not valid UTF-8: rename the file"))?
        .replace(std::path::MAIN_SEPARATOR, "/");
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(Error::invalid_input("not a regular file"));
    }
    if metadata.len() > bytes_max.0 {
        let size = ByteSize(metadata.len());
        return Err(Error::resource_exhausted(format!("{size} is more than {bytes_max}; raise the memory budget")));
    }
    let data = std::fs::read(path)?;
    let content_hash = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let modified_us = modified.and_then(|age| i64::try_from(age.as_micros()).ok());
    Ok(File { path: key, modified_us, content_hash, data })
}

async fn commit(table: &Table, pending: Pending, report: &mut IngestReport) -> Result<()> {
    if pending.files.is_empty() {
        return Ok(());
    }
    let files = &pending.files;
    let text =
        |value: fn(&File) -> &str| Arc::new(files.iter().map(|f| Some(value(f))).collect::<StringArray>()) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        text(|file| &file.path),
        text(|file| file.path.rsplit('/').next().unwrap_or(&file.path)),
        text(|file| kind(&file.data)),
        Arc::new(files.iter().map(|file| Some(file.data.len() as i64)).collect::<Int64Array>()),
        Arc::new(files.iter().map(|file| file.modified_us).collect::<TimestampMicrosecondArray>()),
        text(|file| &file.content_hash),
        Arc::new(files.iter().map(|file| Some(file.data.as_slice())).collect::<LargeBinaryArray>()),
    ];
    let batch = RecordBatch::try_new(media_schema(), columns)
        .map_err(|source| Error::internal("build file rows").with_source(source))?;
    debug_assert!(batch.column(0).null_count() == 0);
    let written = table.upsert(batch).await?;
    report.inserted += written.inserted;
    report.updated += written.updated;
    Ok(())
}

/// Returns the kind of media whose signature, as the formats' specifications give it, `data` begins with.
fn kind(data: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| data.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let image: &[&[u8]] =
        &[b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\0\0\x01\0"];
    let audio: &[&[u8]] = &[b"ID3", b"fLaC", b"OggS", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1"];
    if image.iter().any(|magic| at(0, magic)) || (at(0, b"RIFF") && at(8, b"WEBP")) {
        "image"
    } else if (at(4, b"ftyp") && !at(8, b"M4A")) || at(0, b"\x1a\x45\xdf\xa3") || (at(0, b"RIFF") && at(8, b"AVI ")) {
        "video"
    } else if audio.iter().any(|magic| at(0, magic)) || (at(0, b"RIFF") && at(8, b"WAVE")) || at(8, b"M4A") {
        "audio"
    } else if !data.is_empty() && !data[..data.len().min(8192)].contains(&0) {
        "text"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn kinds_are_told_by_content() {
        for (data, expected) in [
            (&b"\xff\xd8\xff\xe0"[..], "image"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "image"),
            (b"\0\0\0\x18ftypmp42", "video"),
            (b"\0\0\0\x18ftypM4A ", "audio"),
            (b"RIFF\0\0\0\0WAVEfmt ", "audio"),
            (b"plain words", "text"),
            (b"", "other"),
            (b"\0\0\0\0", "other"),
        ] {
            assert_eq!(kind(data), expected, "{data:?}");
        }
    }
}
