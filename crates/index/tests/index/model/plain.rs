//! The plain model: the expected result of each search, computed from the rows alone.

use std::collections::{BTreeMap, BTreeSet};

use cenote_base::Random;
use cenote_index::Metric;

pub const DIMENSIONS: usize = 8;

/// Words of texts, each with the term that an English index makes of it; `None`: a stop word.
const WORDS: [(&str, Option<&str>); 14] = [
    ("car", Some("car")),
    ("cars", Some("car")),
    ("Car", Some("car")),
    ("running", Some("run")),
    ("runs", Some("run")),
    ("house", Some("hous")),
    ("houses", Some("hous")),
    ("searched", Some("search")),
    ("SEARCH", Some("search")),
    ("café", Some("cafe")),
    ("light", Some("light")),
    ("green", Some("green")),
    ("the", None),
    ("and", None),
];

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub color: Option<i64>,
    pub note: Option<String>,
    /// The value of a column that is added and dropped.
    pub title: Option<String>,
    pub vector: Option<Vec<f32>>,
}

pub type Rows = BTreeMap<i64, Row>;

impl Row {
    pub fn random(random: &mut Random, step: usize) -> Self {
        Self {
            color: (random.below(8) > 0).then(|| random.below(6) as i64),
            note: (random.below(8) > 0).then(|| text(random, step)),
            title: (random.below(3) > 0).then(|| text(random, step)),
            vector: (random.below(6) > 0).then(|| vector(random)),
        }
    }

    pub fn text(&self, column: &str) -> Option<&str> {
        if column == "title" { self.title.as_deref() } else { self.note.as_deref() }
    }
}

/// Returns a vector of few distinct values, so that there are ties and zero vectors.
pub fn vector(random: &mut Random) -> Vec<f32> {
    if random.below(20) == 0 {
        return vec![0.0; DIMENSIONS];
    }
    (0..DIMENSIONS).map(|_| random.below(5) as f32 - 2.0).collect()
}

/// Returns a vector that is not zero.
pub fn query_vector(random: &mut Random) -> Vec<f32> {
    let mut vector = vector(random);
    vector[0] = 1.0 + random.below(2) as f32;
    vector
}

pub fn word(random: &mut Random) -> &'static str {
    WORDS[random.below(WORDS.len() as u64) as usize].0
}

/// Returns a word that is not a stop word.
pub fn content_word(random: &mut Random) -> &'static str {
    WORDS[random.below(12) as usize].0
}

/// Returns words with many sorts of gaps between them, or none at all.
fn text(random: &mut Random, step: usize) -> String {
    let mut text = String::new();
    for _ in 0..random.below(7) {
        text += word(random);
        text += [" ", ", ", "-", "! "][random.below(4) as usize];
    }
    if random.below(3) == 0 {
        text += &format!("step{step}");
    }
    text
}

/// Returns the terms that an English index makes of `text`, each with its position.
pub fn words(text: &str) -> Vec<(usize, String)> {
    let separate = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let kept = |word: &str| match WORDS.iter().find(|(written, _)| written.eq_ignore_ascii_case(word)) {
        Some((_, kept)) => kept.map(str::to_owned),
        None => Some(word.to_lowercase()),
    };
    separate.enumerate().filter_map(|(place, word)| Some((place, kept(word)?))).collect()
}

/// Returns the distance between two vectors; `None` where it is undefined.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> Option<f32> {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    match metric {
        Metric::L2 => Some(a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()),
        Metric::Cosine => Some(1.0 - dot / (norm(a) * norm(b))).filter(|distance| distance.is_finite()),
        Metric::Dot => Some(-dot),
        Metric::Hamming => unreachable!("these vectors are no bits"),
    }
}

/// A filter.
#[derive(Debug, Clone, Copy)]
pub enum Keep {
    All,
    Color(i64),
    ColorBelow(i64),
    IdAbove(i64),
    NoNote,
}

impl Keep {
    pub fn random(random: &mut Random, keys: u64) -> Self {
        match random.below(8) {
            0 => Self::Color(random.below(6) as i64),
            1 => Self::ColorBelow(random.below(7) as i64),
            2 => Self::IdAbove(random.below(keys) as i64),
            3 => Self::NoNote,
            _ => Self::All,
        }
    }

    pub fn sql(self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Color(color) => Some(format!("color = {color}")),
            Self::ColorBelow(color) => Some(format!("color < {color}")),
            Self::IdAbove(id) => Some(format!("id > {id} AND color IS NOT NULL")),
            Self::NoNote => Some("note IS NULL OR color IS NULL".to_owned()),
        }
    }

    pub fn has(self, id: i64, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::Color(color) => row.color == Some(color),
            Self::ColorBelow(below) => row.color.is_some_and(|color| color < below),
            Self::IdAbove(above) => id > above && row.color.is_some(),
            Self::NoNote => row.note.is_none() || row.color.is_none(),
        }
    }

    pub fn of(self, rows: &Rows) -> BTreeSet<i64> {
        rows.iter().filter(|(id, row)| self.has(**id, row)).map(|(id, _)| *id).collect()
    }
}
