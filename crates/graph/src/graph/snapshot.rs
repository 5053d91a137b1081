//! Snapshots: a graph in one file.
//!
//! All numbers are little-endian. A header of fixed size gives the length of the rest; the header and each part after
//! it end with the CRC-32 of their bytes. Vectors are stored as given, without codes, so the file does not depend on
//! how a walk compares.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use cenote_base::{Context, Error, Result};

use super::Graph;
use crate::links::{EntryPoint, StoredLevel};
use crate::options::{GraphOptions, Metric, Traversal};
use crate::slots::StoredSlot;
use crate::values::VectorValues;
use crate::vectors::quantizer::Quantizer;

const MAGIC: [u8; 8] = *b"CENOTEGR";
const VERSION: u32 = 1;
const BUFFER_BYTES: usize = 1 << 20;
const METRICS: [Metric; 4] = [Metric::L2, Metric::Cosine, Metric::Dot, Metric::Hamming];
const TRAVERSALS: [Traversal; 2] = [Traversal::Int8, Traversal::Float32];

impl Graph {
    /// Writes the graph to `path` atomically: to a file beside it that is synced and then renamed. Changes of the graph
    /// wait meanwhile; searches do not.
    pub fn save(&self, path: &Path) -> Result<()> {
        let _unchanged = self.writers.write();
        let mut beside = path.as_os_str().to_owned();
        beside.push(".writing");
        let beside = Path::new(&beside);
        let written = self.write_to(beside).and_then(|()| Ok(std::fs::rename(beside, path)?));
        if written.is_err() {
            // The error of the write matters more than that of the removal.
            let _ = std::fs::remove_file(beside);
        }
        written.context(|| format!("save the graph to {}", path.display()))?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .context(|| format!("sync {}", directory.display()))
    }

    /// Reads a snapshot that [`Self::save`] wrote into a graph of `capacity_bytes`.
    ///
    /// Errors: `NotFound`; `Corrupt`, with the name of the part, when the file was truncated or changed; `Unsupported`
    /// for another version of the format; `ResourceExhausted` when the graph exceeds the capacity.
    pub fn load(path: &Path, capacity_bytes: u64) -> Result<Self> {
        let file = File::open(path).context(|| format!("open the graph {}", path.display()))?;
        let mut reader =
            SnapshotReader { from: BufReader::with_capacity(BUFFER_BYTES, file), crc: crc32fast::Hasher::new() };
        Self::read_from(&mut reader, capacity_bytes).context(|| format!("load the graph {}", path.display()))
    }

    fn write_to(&self, path: &Path) -> Result<()> {
        let file = File::create(path)?;
        let mut to = SnapshotWriter { to: BufWriter::with_capacity(BUFFER_BYTES, file), crc: crc32fast::Hasher::new() };
        let vectors = self.vectors.read();
        let used = self.slots.used();
        let entry = self.links.entry().unwrap_or(EntryPoint { slot: 0, level: 0 });
        let GraphOptions { dimension, metric, traversal, m, ef_construction, seed, .. } = self.options;
        to.bytes(&MAGIC)?;
        to.numbers(&[VERSION, metric as u32, traversal as u32, dimension as u32, m as u32, ef_construction as u32])?;
        to.numbers(&[seed as u32, (seed >> 32) as u32, used, self.links.upper_used(), entry.slot, entry.level.into()])?;
        to.numbers(&[self.trained.load(Ordering::Acquire) as u32, vectors.quantizer().step.to_bits()])?;
        to.seal()?;
        vectors.quantizer().mean.iter().try_for_each(|mean| to.bytes(&mean.to_le_bytes()))?;
        to.seal()?;
        for slot in 1..=used {
            to.bytes(&self.slots.label(slot).to_le_bytes())?;
            to.bytes(&[self.slots.state(slot) as u8, self.links.level(slot)])?;
            to.numbers(&[self.links.upper_at(slot)])?;
        }
        to.seal()?;
        let mut numbers = Vec::new();
        for list in self.links.lists(used) {
            numbers.clear();
            numbers.extend(list.iter().map(|link| link.load(Ordering::Acquire)));
            to.numbers(&numbers)?;
        }
        to.seal()?;
        for slot in 1..=used {
            match vectors.values(slot) {
                VectorValues::Bits(bytes) => to.bytes(bytes)?,
                VectorValues::Floats(floats) => {
                    numbers.clear();
                    numbers.extend(floats.iter().map(|float| float.to_bits()));
                    to.numbers(&numbers)?;
                }
            }
        }
        to.seal()?;
        to.to.flush()?;
        Ok(to.to.get_ref().sync_all()?)
    }

    fn read_from(from: &mut SnapshotReader, capacity_bytes: u64) -> Result<Self> {
        let mut magic = [0; 8];
        from.bytes(&mut magic, "header")?;
        if magic != MAGIC {
            return Err(Error::corrupt("the file does not begin as a graph does"));
        }
        let header: [u32; 14] = from.numbers(14, "header")?.try_into().unwrap_or_default();
        let [version, metric, traversal, dimension, m, ef_construction, seed, seed_high, used, upper_used, ..] = header;
        let [.., entry, level, trained, step] = header;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "the file has format {version}, this build reads format {VERSION}"
            )));
        }
        from.verify("header")?;
        let unknown = || Error::corrupt("the header names an unknown metric or traversal");
        let options = GraphOptions {
            dimension: dimension as usize,
            metric: *METRICS.get(metric as usize).ok_or_else(unknown)?,
            traversal: *TRAVERSALS.get(traversal as usize).ok_or_else(unknown)?,
            m: m as usize,
            ef_construction: ef_construction as usize,
            seed: u64::from(seed_high) << 32 | u64::from(seed),
            capacity_bytes,
        };
        let graph = Self::new(options)?;
        let mean = from.numbers(dimension as usize, "scale")?.into_iter().map(f32::from_bits).collect();
        from.verify("scale")?;
        let (mut slots, mut levels) = (Vec::new(), Vec::new());
        for _ in 0..used {
            let mut entry = [0; 14];
            from.bytes(&mut entry, "labels")?;
            let [label @ .., state, level, a, b, c, d] = entry;
            slots.push(StoredSlot { label: u64::from_le_bytes(label), state });
            levels.push(StoredLevel { level, upper_at: u32::from_le_bytes([a, b, c, d]) });
        }
        from.verify("labels")?;
        graph.slots.restore(&slots)?;
        graph.links.restore(
            &levels,
            upper_used,
            (entry != 0).then_some(EntryPoint { slot: entry, level: level as u8 }),
        )?;
        for list in graph.links.lists(used) {
            for (place, link) in list.iter().zip(from.numbers(list.len(), "links")?) {
                place.store(link, Ordering::Release);
            }
        }
        from.verify("links")?;
        graph.links.check(used)?;
        let mut vectors = graph.vectors.write();
        let width = VectorValues::width(&graph.options);
        let mut bits = vec![0; width];
        for slot in 1..=used {
            if graph.options.metric == Metric::Hamming {
                from.bytes(&mut bits, "vectors")?;
                vectors.restore(slot, VectorValues::Bits(&bits));
            } else {
                let floats: Vec<f32> = from.numbers(width, "vectors")?.into_iter().map(f32::from_bits).collect();
                vectors.restore(slot, VectorValues::Floats(&floats));
            }
        }
        from.verify("vectors")?;
        vectors.set_quantizer(Quantizer { mean, step: f32::from_bits(step) }, used);
        drop(vectors);
        if from.from.read(&mut [0])? != 0 {
            return Err(Error::corrupt("the file goes on after its end"));
        }
        graph.trained.store(trained as usize, Ordering::Release);
        Ok(graph)
    }
}

/// Writes numbers and bytes, and the checksum of each part.
struct SnapshotWriter {
    to: BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl SnapshotWriter {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }

    fn numbers(&mut self, numbers: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.bytes(&bytes)
    }

    /// Ends a part with its checksum.
    fn seal(&mut self) -> Result<()> {
        let crc = std::mem::take(&mut self.crc).finalize();
        Ok(self.to.write_all(&crc.to_le_bytes())?)
    }
}

/// Reads numbers and bytes, and verifies the checksum of each part.
struct SnapshotReader {
    from: BufReader<File>,
    crc: crc32fast::Hasher,
}

impl SnapshotReader {
    fn fill(&mut self, bytes: &mut [u8], part: &str) -> Result<()> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::corrupt(format!("the file ends in its {part}")),
            _ => Error::from(error),
        })
    }

    fn bytes(&mut self, bytes: &mut [u8], part: &str) -> Result<()> {
        self.fill(bytes, part)?;
        self.crc.update(bytes);
        Ok(())
    }

    fn numbers(&mut self, count: usize, part: &str) -> Result<Vec<u32>> {
        let mut bytes = vec![0; count * size_of::<u32>()];
        self.bytes(&mut bytes, part)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number)).collect())
    }

    /// Ends a part, and compares its checksum with the stored one.
    fn verify(&mut self, part: &str) -> Result<()> {
        let mut stored = [0; 4];
        self.fill(&mut stored, part)?;
        let found = std::mem::take(&mut self.crc).finalize();
        if found != u32::from_le_bytes(stored) {
            return Err(Error::corrupt(format!("the {part} are not what was written: their checksum differs")));
        }
        Ok(())
    }
}
