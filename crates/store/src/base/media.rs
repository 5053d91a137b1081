//! Media of the rows of a base.
//!
//! A media column has a descriptor per row, which gives the file and the position of the row's bytes. Descriptors are
//! read through the cache of pages. Bytes in local files are read straight into the output array; all others come
//! through Lance.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, LargeBinaryBuilder, PrimitiveArray, StructArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{ArrowPrimitiveType, UInt8Type, UInt32Type, UInt64Type};
use cenote_base::{Error, Result};
use futures::{FutureExt, TryStreamExt};
use lance::Dataset;
use lance_core::datatypes::BlobKind;
use lance_core::utils::address::RowAddress;
use lance_core::utils::blob::blob_path;
use lance_io::local::to_local_path;
use lance_table::format::DataFile;
use object_store::path::Path as ObjectPath;

use crate::base::media_files::MediaFiles;
use crate::base::pages::RowReader;
use crate::blocking::blocking;
use crate::errors::{arrow_error, lance_error};
use crate::files::os_cache::{announce, read_cached};

/// The place of the bytes of one row.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// An index into [`Pieces::files`].
    file: usize,
    position: u64,
    bytes: u64,
}

/// The places of the bytes of some rows.
#[derive(Debug, Default)]
struct Pieces {
    files: Vec<PathBuf>,
    /// One per row; `None` for null.
    rows: Vec<Option<Piece>>,
}

/// Reads the bytes in `column` of the rows with these ids, in their order.
///
/// # Errors
/// `NotFound` when a row does not exist, `Corrupt` when its bytes do not.
pub(crate) async fn read(reader: &RowReader, column: &str, row_ids: &[u64]) -> Result<ArrayRef> {
    let addresses = reader.find(row_ids).await?;
    match local_pieces(reader, column, &addresses).await? {
        Some(pieces) => {
            let files = Arc::clone(reader.media_files());
            blocking(move || pieces.read(&files)).await
        }
        None => read_by_lance(reader.base(), column, &addresses).boxed().await,
    }
}

/// Returns the sizes in bytes of media, in the order of the row ids; 0 for null. Reads no media.
pub(crate) async fn sizes(reader: &RowReader, column: &str, row_ids: &[u64]) -> Result<Vec<u64>> {
    let addresses = reader.find(row_ids).await?;
    if let Some(pieces) = local_pieces(reader, column, &addresses).await? {
        return Ok(pieces.rows.iter().map(|piece| piece.map_or(0, |piece| piece.bytes)).collect());
    }
    let addresses: Vec<u64> = addresses.into_iter().map(u64::from).collect();
    let found = reader.base().take_blobs_by_addresses(&addresses, column).boxed().await.map_err(lance_error)?;
    Ok(found.into_iter().map(|media| media.map_or(0, |media| media.size())).collect())
}

/// Locates the bytes of these rows in local files; `None` when some are elsewhere.
async fn local_pieces(reader: &RowReader, column: &str, addresses: &[RowAddress]) -> Result<Option<Pieces>> {
    let base = reader.base();
    let store = base.object_store(None).await.map_err(lance_error)?;
    if !store.has_direct_local_paths() {
        return Ok(None);
    }
    let mut schema = base.schema().project(&[column]).map_err(lance_error)?;
    schema.fields.iter_mut().for_each(|field| field.unloaded_mut());
    let field = schema.fields.first().map_or(0, |field| field.id as u32);
    let rows = reader.take_at(addresses, &schema).await?;
    let descriptors = rows.columns().first().and_then(|column| column.as_struct_opt());
    let descriptors = descriptors.and_then(Descriptors::of);
    let descriptors =
        descriptors.ok_or_else(|| Error::corrupt(format!("column `{column}` has no media descriptors")))?;

    let mut pieces = Pieces::default();
    let mut known: HashMap<(u32, Option<u32>), usize> = HashMap::new();
    for (row, address) in addresses.iter().enumerate() {
        let Some(kind) = descriptors.kind(row) else {
            pieces.rows.push(None);
            continue;
        };
        let (sidecar, position) = match BlobKind::try_from(kind).map_err(lance_error)? {
            BlobKind::Inline => (None, descriptors.positions.value(row)),
            BlobKind::Packed => (Some(descriptors.ids.value(row)), descriptors.positions.value(row)),
            BlobKind::Dedicated => (Some(descriptors.ids.value(row)), 0),
            BlobKind::External | BlobKind::Managed | BlobKind::ManagedWithBase => return Ok(None),
        };
        let fragment = address.fragment_id();
        let file = match known.get(&(fragment, sidecar)) {
            Some(file) => *file,
            None => {
                let data = base.get_fragment(fragment as usize);
                let data = data.as_ref().and_then(|fragment| fragment.data_file_for_field(field));
                let data =
                    data.ok_or_else(|| Error::corrupt(format!("fragment {fragment} has no file for `{column}`")))?;
                // The file belongs to another dataset.
                if data.base_id.is_some() {
                    return Ok(None);
                }
                pieces.files.push(path(base, data, sidecar));
                known.insert((fragment, sidecar), pieces.files.len() - 1);
                pieces.files.len() - 1
            }
        };
        pieces.rows.push(Some(Piece { file, position, bytes: descriptors.sizes.value(row) }));
    }
    Ok(Some(pieces))
}

/// Returns the folder beside a data file that holds its larger media.
pub(crate) fn folder(base: &Dataset, data: &DataFile) -> ObjectPath {
    base.data_dir().join(stem(data))
}

fn stem(data: &DataFile) -> &str {
    data.path.strip_suffix(".lance").unwrap_or(&data.path)
}

/// Returns the file that holds media of a data file: the file itself, or one beside it.
fn path(base: &Dataset, data: &DataFile, sidecar: Option<u32>) -> PathBuf {
    let folder = base.data_dir();
    let path = match sidecar {
        None => folder.join(data.path.as_str()),
        Some(id) => blob_path(&folder, stem(data), id),
    };
    PathBuf::from(to_local_path(&path))
}

async fn read_by_lance(base: &Arc<Dataset>, column: &str, addresses: &[RowAddress]) -> Result<ArrayRef> {
    let addresses: Vec<u64> = addresses.iter().copied().map(u64::from).collect();
    let rows = addresses.len();
    let read = base.read_blobs(column).map_err(lance_error)?.with_row_addresses(addresses);
    // Lance returns them in the order of the addresses, and reads neighbours together.
    let media = read.try_into_stream().await.map_err(lance_error)?;
    let media: Vec<_> = media.map_ok(|media| media.data).try_collect().await.map_err(lance_error)?;
    if media.len() != rows {
        return Err(Error::not_found("a row id names no row of this snapshot"));
    }
    // Allocated at its final size: growing would copy the bytes repeatedly.
    let bytes = media.iter().flatten().map(|media| media.len()).sum();
    let mut builder = LargeBinaryBuilder::with_capacity(media.len(), bytes);
    media.into_iter().for_each(|media| builder.append_option(media));
    Ok(Arc::new(builder.finish()))
}

/// The columns of Lance's media descriptors, version 2.
struct Descriptors<'a> {
    all: &'a StructArray,
    kinds: &'a PrimitiveArray<UInt8Type>,
    positions: &'a PrimitiveArray<UInt64Type>,
    sizes: &'a PrimitiveArray<UInt64Type>,
    ids: &'a PrimitiveArray<UInt32Type>,
}

impl<'a> Descriptors<'a> {
    fn of(all: &'a StructArray) -> Option<Self> {
        fn numbers<'a, T: ArrowPrimitiveType>(all: &'a StructArray, name: &str) -> Option<&'a PrimitiveArray<T>> {
            all.column_by_name(name)?.as_primitive_opt()
        }
        Some(Self {
            all,
            kinds: numbers(all, "kind")?,
            positions: numbers(all, "position")?,
            sizes: numbers(all, "size")?,
            ids: numbers(all, "blob_id")?,
        })
    }

    /// Returns the kind of the row's descriptor; `None` for null.
    fn kind(&self, row: usize) -> Option<u8> {
        (self.all.is_valid(row) && self.kinds.is_valid(row)).then(|| self.kinds.value(row))
    }
}

impl Pieces {
    /// Reads the bytes into one array. Does blocking I/O.
    fn read(&self, open: &MediaFiles) -> Result<ArrayRef> {
        let files = self.files.iter().map(|path| open.get(path)).collect::<Result<Vec<_>>>()?;
        for piece in self.rows.iter().flatten() {
            files[piece.file].check(piece.position, piece.bytes)?;
        }
        let lengths = self.rows.iter().map(|piece| piece.map_or(0, |piece| piece.bytes as usize));
        let offsets = OffsetBuffer::<i64>::from_lengths(lengths);
        let nulls = self.rows.iter().map(Option::is_some).collect::<NullBuffer>();
        let mut bytes = vec![0; offsets.last().copied().unwrap_or(0) as usize];

        let (mut parts, mut rest) = (Vec::with_capacity(self.rows.len()), bytes.as_mut_slice());
        for piece in self.rows.iter().flatten() {
            let (part, tail) = rest.split_at_mut(piece.bytes as usize);
            parts.push((piece, part));
            rest = tail;
        }
        parts.sort_unstable_by_key(|(piece, _)| (piece.file, piece.position));
        // What the operating system has in memory is copied at once. All other reads are announced before the first of
        // them is awaited.
        parts.retain_mut(|(piece, part)| !read_cached(&files[piece.file].file, part, piece.position).unwrap_or(false));
        parts.iter().for_each(|(piece, _)| announce(&files[piece.file].file, piece.position, piece.bytes));
        for (piece, part) in parts {
            let file = &files[piece.file];
            file.file.read_exact_at(part, piece.position).map_err(|error| file.failed(error))?;
        }
        let array = LargeBinaryArray::try_new(offsets, Buffer::from_vec(bytes), Some(nulls)).map_err(arrow_error)?;
        Ok(Arc::new(array))
    }
}
