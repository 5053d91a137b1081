//! A model of a disk that may lose power: what of a directory is certainly there, and what may be.
//!
//! Two things are certain: the content of a file as of the start of its newest finished sync, and the entries of a
//! directory as of the start of its own. Any part of everything later may be there, in any order: entries (a rename has
//! happened or not, never half), and sectors, in files of any length between the old and the new one, with zeros where
//! nothing was written.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use cenote_base::Random;

use super::trace::Event;

/// Bytes that a disk writes atomically.
const SECTOR_BYTES: usize = 512;

type NodeId = usize;

#[derive(Debug)]
enum Node {
    File(File),
    Directory(Directory),
}

#[derive(Debug, Default)]
struct File {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// The start of the sync that `synced` comes from.
    synced_at: usize,
}

#[derive(Debug, Default)]
struct Directory {
    now: BTreeMap<String, NodeId>,
    synced: BTreeMap<String, NodeId>,
    /// Changes since then, each with its time.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(String, NodeId),
    Unlink(String),
    Rename(String, String, NodeId),
}

/// The model of a disk: see the module's description.
#[derive(Debug)]
pub struct Disk {
    /// The directory that is modelled, empty at first.
    root: PathBuf,
    nodes: Vec<Node>,
    /// The number of events so far.
    now: usize,
    /// Syncs in progress, by thread: their node, when they began, and the content of the file at that time.
    syncing: HashMap<u32, (NodeId, usize, Vec<u8>)>,
}

impl Disk {
    pub fn new(root: &Path) -> Self {
        let nodes = vec![Node::Directory(Directory::default())];
        Self { root: root.to_owned(), nodes, now: 0, syncing: HashMap::new() }
    }

    fn directory(&mut self, id: NodeId) -> &mut Directory {
        match &mut self.nodes[id] {
            Node::Directory(directory) => directory,
            Node::File(_) => panic!("node {id} is a file"),
        }
    }

    /// Returns the node at `path`; `None` when it is outside the root, or removed.
    fn find(&self, path: &Path) -> Option<NodeId> {
        let mut at = 0;
        for part in path.strip_prefix(&self.root).ok()?.components() {
            let (Component::Normal(name), Node::Directory(directory)) = (part, &self.nodes[at]) else { return None };
            at = *directory.now.get(name.to_str()?)?;
        }
        Some(at)
    }

    /// Returns the directory and the name of `path`; `None` when it is outside the root.
    fn place(&self, path: &Path) -> Option<(NodeId, String)> {
        Some((self.find(path.parent()?)?, path.file_name()?.to_str()?.to_owned()))
    }

    fn change(&mut self, id: NodeId, change: Change) {
        let now = self.now;
        let directory = self.directory(id);
        apply(&mut directory.now, &change);
        directory.pending.push((now, change));
    }

    fn add(&mut self, path: &Path, node: Node) {
        let Some((directory, name)) = self.place(path) else { return };
        self.nodes.push(node);
        self.change(directory, Change::Link(name, self.nodes.len() - 1));
    }

    /// Returns the content of the file at `path`, for changes.
    fn file(&mut self, path: &Path) -> Option<&mut Vec<u8>> {
        let id = self.find(path)?;
        match &mut self.nodes[id] {
            Node::File(file) => Some(&mut file.now),
            Node::Directory(_) => None,
        }
    }

    pub fn apply(&mut self, event: &Event) {
        self.now += 1;
        match event {
            Event::Create { path, truncate } => match (self.file(path), truncate) {
                (Some(content), true) => content.clear(),
                (Some(_), false) => {}
                (None, _) => self.add(path, Node::File(File::default())),
            },
            Event::Directory(path) => self.add(path, Node::Directory(Directory::default())),
            Event::Write { path, at, bytes } => {
                if let Some(content) = self.file(path) {
                    content.resize(content.len().max(at + bytes.len()), 0);
                    content[*at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
            Event::Resize { path, length } => {
                if let Some(content) = self.file(path) {
                    content.resize(*length, 0);
                }
            }
            Event::Link { from, to } => {
                if let (Some(node), Some((directory, name))) = (self.find(from), self.place(to)) {
                    self.change(directory, Change::Link(name, node));
                }
            }
            Event::Unlink(path) => {
                if let Some((directory, name)) = self.place(path) {
                    self.change(directory, Change::Unlink(name));
                }
            }
            Event::Rename { from, to } => {
                if let (Some(node), Some((before, old)), Some((after, new))) =
                    (self.find(from), self.place(from), self.place(to))
                {
                    assert_eq!(before, after, "a rename from one directory to another is not modelled");
                    self.change(before, Change::Rename(old, new, node));
                }
            }
            Event::SyncStart { thread, path } => {
                if let Some(id) = self.find(path) {
                    let content = match &self.nodes[id] {
                        Node::File(file) => file.now.clone(),
                        Node::Directory(_) => Vec::new(),
                    };
                    self.syncing.insert(*thread, (id, self.now, content));
                }
            }
            Event::SyncEnd { thread } => {
                let Some((id, start, content)) = self.syncing.remove(thread) else { return };
                match &mut self.nodes[id] {
                    Node::File(file) if file.synced_at < start => {
                        (file.synced, file.synced_at) = (content, start);
                    }
                    Node::File(_) => {}
                    Node::Directory(directory) => {
                        let done = directory.pending.partition_point(|(at, _)| *at < start);
                        directory.pending.drain(..done).for_each(|(_, change)| apply(&mut directory.synced, &change));
                    }
                }
            }
            Event::Mark(_) => {}
        }
    }

    /// Writes to `target`, an empty directory, what is there after a power cut: everything certain, and with `chance`
    /// some of the rest.
    pub fn write(&self, target: &Path, chance: &mut Option<Chance>) {
        let mut contents = HashMap::new();
        self.write_node(0, target, chance, &mut contents);
    }

    fn write_node(
        &self,
        id: NodeId,
        path: &Path,
        chance: &mut Option<Chance>,
        contents: &mut HashMap<NodeId, Vec<u8>>,
    ) {
        match &self.nodes[id] {
            Node::File(file) => {
                let content = contents.entry(id).or_insert_with(|| match chance {
                    Some(chance) => chance.content(file),
                    None => file.synced.clone(),
                });
                std::fs::write(path, content).unwrap();
            }
            Node::Directory(directory) => {
                std::fs::create_dir_all(path).unwrap();
                let mut entries = directory.synced.clone();
                for (_, change) in &directory.pending {
                    if chance.as_mut().is_some_and(Chance::takes) {
                        apply(&mut entries, change);
                    }
                }
                for (name, node) in entries {
                    self.write_node(node, &path.join(name), chance, contents);
                }
            }
        }
    }
}

fn apply(entries: &mut BTreeMap<String, NodeId>, change: &Change) {
    match change {
        Change::Link(name, node) => drop(entries.insert(name.clone(), *node)),
        Change::Unlink(name) => drop(entries.remove(name)),
        Change::Rename(from, to, node) => {
            if entries.get(from) == Some(node) {
                entries.remove(from);
            }
            entries.insert(to.clone(), *node);
        }
    }
}

/// A random choice of the uncertain parts that are there.
#[derive(Debug)]
pub struct Chance {
    random: Random,
    /// The probability of each part.
    share: f64,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let share = [0.0, 0.2, 0.5, 0.8, 1.0][random.below(5) as usize];
        Self { random, share }
    }

    fn takes(&mut self) -> bool {
        self.random.unit() < self.share
    }

    fn content(&mut self, file: &File) -> Vec<u8> {
        if file.now == file.synced {
            return file.now.clone();
        }
        let (shorter, longer) = (file.now.len().min(file.synced.len()), file.now.len().max(file.synced.len()));
        let length = match self.random.below(3) {
            0 => file.synced.len(),
            1 => file.now.len(),
            _ => shorter + self.random.below((longer - shorter + 1) as u64) as usize,
        };
        let mut content = file.synced.clone();
        content.resize(length, 0);
        for start in (0..length).step_by(SECTOR_BYTES) {
            let end = (start + SECTOR_BYTES).min(length).min(file.now.len());
            if start < end && self.takes() {
                content[start..end].copy_from_slice(&file.now[start..end]);
            }
        }
        content
    }
}
