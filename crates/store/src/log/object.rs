//! A log in an object store: one object per group of writes, created once and numbered without gaps.
//!
//! A write creates the object with the next number, which the store lets only one of several writers do. So a writer
//! that was considered dead finds out at its next write, whatever its clock says.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use cenote_base::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};

use super::segment::{News, Segment, Segments};
use super::unseen::Unseen;
use crate::files::objects::{Objects, PARALLEL};

/// Maximum objects read ahead in parallel, and their bytes.
const AHEAD_MAX: usize = 32;
const AHEAD_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Groups {
    pub(super) objects: Objects,
}

#[derive(Debug)]
struct ObjectSegment {
    objects: Objects,
    /// The stamp of object 0. It differs for another table that was made under this one's name.
    first: Option<String>,
    /// The number of the first object that was not read completely.
    next: u64,
    /// Objects from `next` on, the first without the part that was read.
    ahead: VecDeque<Bytes>,
    /// How many objects to read ahead.
    width: usize,
}

fn object_name(number: u64) -> String {
    format!("{number:010}")
}

impl Groups {
    fn segment(&self, number: u64) -> ObjectSegment {
        ObjectSegment {
            objects: self.objects.under(&format!("{number:020}")),
            first: None,
            next: 0,
            ahead: VecDeque::new(),
            width: 1,
        }
    }
}

#[async_trait]
impl Segments for Groups {
    fn name(&self) -> String {
        self.objects.name("")
    }

    async fn list(&self) -> Result<Vec<u64>> {
        let folders = self.objects.folders().await?;
        // Stores with real folders, such as a disk, keep the folders of collected segments, and of an earlier table of
        // this name.
        let numbers: Vec<u64> = folders.iter().filter_map(|name| name.parse().ok()).collect();
        let checked = stream::iter(numbers).map(|number| async move {
            let is_there = self.segment(number).objects.exists(&object_name(0)).await?;
            Ok::<_, Error>(is_there.then_some(number))
        });
        checked.buffered(PARALLEL).try_filter_map(|number| async move { Ok(number) }).try_collect().await
    }

    async fn create(&self, number: u64, bytes: Vec<u8>) -> Result<Box<dyn Segment>> {
        let mut segment = self.segment(number);
        segment.append(bytes, true).await?;
        segment.first = segment.objects.stamp(&object_name(0)).await?;
        Ok(Box::new(segment))
    }

    async fn open(&self, number: u64) -> Result<Option<Box<dyn Segment>>> {
        let mut segment = self.segment(number);
        segment.first = segment.objects.stamp(&object_name(0)).await?;
        Ok(segment.first.is_some().then(|| Box::new(segment) as _))
    }

    async fn bytes(&self, number: u64) -> Result<u64> {
        self.segment(number).objects.bytes().await
    }

    async fn remove(&self, numbers: &[u64]) -> Result<()> {
        let listed = stream::iter(numbers.to_vec()).map(|number| async move {
            let folder = format!("{number:020}");
            let names = self.objects.under(&folder).list().await?;
            Ok::<_, Error>(names.into_iter().map(move |name| format!("{folder}/{name}")))
        });
        let listed: Vec<_> = listed.buffered(PARALLEL).try_collect().await?;
        let (first, rest) = listed.into_iter().flatten().partition(|name| name.ends_with(&object_name(0)));
        // Object 0 goes last: it says whether the segment exists.
        self.objects.delete_many(rest).await?;
        self.objects.delete_many(first).await
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Segment for ObjectSegment {
    fn position(&self, skip: usize) -> String {
        format!("log object {} at byte {skip} of what was not read", self.objects.name(&object_name(self.next)))
    }

    fn can_be_torn(&self) -> bool {
        false
    }

    /// Returns the position in objects instead of bytes, because objects are written whole.
    fn end(&self) -> u64 {
        self.next
    }

    fn synced(&self) -> u64 {
        self.next
    }

    fn note_synced(&mut self, _bytes: u64) {}

    async fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    async fn news(&self) -> Result<News> {
        if !self.ahead.is_empty() {
            return Ok(News::More);
        }
        let (next, first) = (object_name(self.next), object_name(0));
        let (more, stamp) = tokio::try_join!(self.objects.exists(&next), self.objects.stamp(&first))?;
        Ok(match more {
            _ if stamp != self.first => News::Gone,
            true => News::More,
            false => News::None,
        })
    }

    async fn peek(&mut self, _wanted: usize) -> Result<Bytes> {
        if self.ahead.is_empty() {
            let numbers = self.next..self.next + self.width as u64;
            let objects = self.objects.clone();
            let read = stream::iter(numbers).map(|number| {
                let objects = objects.clone();
                async move { objects.get(&object_name(number)).await }
            });
            let found: Vec<Option<Bytes>> = read.buffered(AHEAD_MAX).try_collect().await?;
            self.ahead = found.into_iter().map_while(|object| object).collect();
            // A long log is read with growing read-ahead; a log that is being followed is read object by object.
            let bytes: usize = self.ahead.iter().map(Bytes::len).sum();
            let all = self.ahead.len() == self.width;
            self.width = match all && bytes < AHEAD_BYTES / 2 {
                true => (self.width * 2).min(AHEAD_MAX),
                false => 1,
            };
        }
        Ok(self.ahead.front().cloned().unwrap_or_default())
    }

    fn advance(&mut self, bytes: usize) {
        if let Some(object) = self.ahead.front_mut() {
            *object = object.slice(bytes..);
            if object.is_empty() {
                self.ahead.pop_front();
                self.next += 1;
            }
        }
    }

    async fn append(&mut self, bytes: Vec<u8>, _sync: bool) -> Result<Unseen> {
        if !self.objects.create(&object_name(self.next), bytes.into()).await? {
            return Err(Error::conflict("another process has taken over writing to this table; try again"));
        }
        self.next += 1;
        Ok(Unseen::default())
    }

    async fn truncate(&mut self) -> Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use object_store::local::LocalFileSystem;
    use object_store::path::Path;

    use super::*;
    use crate::faults::Faults;

    /// Keeps the folder of a removed segment, as stores with real folders do.
    #[tokio::test]
    async fn an_empty_folder_is_no_segment() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalFileSystem::new_with_prefix(directory.path()).unwrap();
        let groups = Groups { objects: Objects::new(Arc::new(store), Path::from("log"), Faults::default()) };
        for number in [1, 5, 9] {
            groups.create(number, vec![1]).await.unwrap();
        }
        groups.remove(&[1, 5]).await.unwrap();
        assert_eq!(std::fs::read_dir(directory.path().join("log")).unwrap().count(), 3);
        assert_eq!(groups.list().await.unwrap(), [9]);
    }
}
